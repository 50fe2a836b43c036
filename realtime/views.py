"""The HTTP API and the health probes as Django views, for hosts that ``include("realtime.urls")``.

The publishing view is synchronous: it works under WSGI and ASGI alike, on the sync client.
"""

from __future__ import annotations

from collections.abc import Sequence

from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt

from realtime import health, wiring
from realtime.api import Outcomes, Request, Response, body_limit, respond
from realtime.errors import RealtimeError
from realtime.publication import Publication


@csrf_exempt  # authenticated by a header that no other site's page can send, never by a cookie
def api(request: HttpRequest, method: str) -> HttpResponse:
    """Answer one request to the API."""
    work = respond(
        Request(
            http_method=request.method or "",
            api_method=method,
            body=request.read(body_limit(method) + 1),
            content_type=request.headers.get("Content-Type", ""),
            content_encoding=request.headers.get("Content-Encoding", ""),
            api_key=request.headers.get("X-API-Key", ""),
            idempotency_key=request.headers.get("Idempotency-Key"),
        ),
        wiring.access(),
        wiring.namespaces(),
    )
    try:
        publications = next(work)
        while True:
            publications = work.send(_publish(publications))
    except StopIteration as done:
        return _http(done.value)


def livez(request: HttpRequest) -> HttpResponse:
    """Tell that this process lives."""
    return _http(health.livez())


async def readyz(request: HttpRequest) -> HttpResponse:
    """Tell whether this process hears the broker."""
    if not hasattr(request, "scope"):
        return _http(
            Response(
                503, b'{"status":"not live","reason":"no hub: this process runs under WSGI"}', {}
            )
        )
    return _http(health.readyz(wiring.node().running_hub()))


def _publish(publications: Sequence[Publication]) -> Outcomes:
    try:
        publisher = wiring.sync_publisher()
        if len(publications) == 1:
            return [publisher.publish(publications[0])]
        return publisher.publish_many(publications)
    except RealtimeError as error:
        return error


def _http(response: Response) -> HttpResponse:
    headers = {**response.headers, "Cache-Control": "no-store"}
    return HttpResponse(
        response.body, status=response.status, content_type="application/json", headers=headers
    )
