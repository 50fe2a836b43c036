"""The HTTP API and the health probes as Django views, for hosts that ``include("realtime.urls")``.

The publishing view is synchronous: it works under WSGI and ASGI alike, on the sync client.
"""

from __future__ import annotations

from collections.abc import Sequence

from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse, UnreadablePostError
from django.views.decorators.csrf import csrf_exempt

from realtime import documents, health, wiring
from realtime.api.answers import HEADERS, Response, failure
from realtime.api.backend import Outcome, finished
from realtime.api.head import EVENTS, Request, RequestTimeout
from realtime.api.methods import Access, admitted, respond
from realtime.auth import has_session
from realtime.brokers import Stats, Survey
from realtime.control import Command
from realtime.errors import RealtimeError
from realtime.membership import Headcount
from realtime.publication import Publication
from realtime.staff import key_of_session
from realtime.survey import Question


@login_not_required
@csrf_exempt  # a key is in a header that no other site's page can send; `staff` checks the rest
def api(request: HttpRequest, method: str) -> HttpResponse:
    """Answer one request to the API."""
    head = _head(request, method)
    try:
        welcome = admitted(head, _access(request, head))
        body = _body(request, wiring.body_bytes(method))
        work = respond(welcome, body, _BACKEND, wiring.namespaces(), wiring.routes())
        return _http(finished(work))
    except RealtimeError as error:
        return _http(failure(error))


def _access(request: HttpRequest, head: Request) -> Access:
    if "X-API-Key" not in request.headers and has_session(request.headers.get("Cookie", "")):
        return lambda _: key_of_session(request, head)
    return wiring.keyring().admit


def _head(request: HttpRequest, method: str) -> Request:
    return Request(
        http_method=request.method or "",
        api_method=method,
        content_length=request.headers.get("Content-Length", ""),
        content_type=request.headers.get("Content-Type", ""),
        content_encoding=request.headers.get("Content-Encoding", ""),
        api_key=request.headers.get("X-API-Key", ""),
        idempotency_key=request.headers.get("Idempotency-Key"),
        query=request.META.get("QUERY_STRING", ""),
        body_bytes=wiring.body_bytes(method),
        attributes=_attributes(request) if method == EVENTS else None,
    )


def _attributes(request: HttpRequest) -> dict[str, str]:
    """Return those headers that are attributes of a CloudEvent."""
    headers = ((name.lower(), text) for name, text in request.headers.items())
    return {name[3:]: text for name, text in headers if name.startswith("ce-")}


def _body(request: HttpRequest, limit: int) -> bytes:
    try:
        return request.read(limit + 1)
    except UnreadablePostError as error:
        raise RequestTimeout("the client went away") from error


class _Backend:
    """The publishing side for threads, which never awaits; see `realtime.api.backend.Backend`."""

    async def publish(self, publications: Sequence[Publication]) -> list[Outcome]:
        publisher = wiring.sync_publisher()
        if len(publications) == 1:
            return [publisher.publish(publications[0])]
        return publisher.publish_many(publications)

    async def take(self, name: str, rate: float, count: int) -> float:
        return wiring.sync_publisher().take(name, rate, count)

    async def tell(self, command: Command) -> None:
        wiring.tell_nodes_sync(command)

    async def queue_stats(self) -> Stats:
        return wiring.sync_broker().queue_stats()

    async def members(self, channel: str) -> dict[str, str]:
        return wiring.sync_broker().members(channel)

    async def headcount(self, channel: str) -> Headcount:
        return wiring.sync_broker().headcount(channel)

    async def survey(self, question: Question) -> Survey:
        return wiring.sync_broker().survey(question)


_BACKEND = _Backend()


@login_not_required
@csrf_exempt  # nothing but GET is answered
def document(request: HttpRequest) -> HttpResponse:
    """Return what the service says of itself."""
    wanted = request.headers.get("If-None-Match", "")
    return _http(documents.answer(request.method or "", request.path, wanted))


@login_not_required
@csrf_exempt  # nothing but GET is answered
def livez(request: HttpRequest) -> HttpResponse:
    """Tell that this process lives."""
    return _http(health.answer("livez", request.method or ""))


@login_not_required
@csrf_exempt  # ditto
async def readyz(request: HttpRequest) -> HttpResponse:
    """Tell whether this process hears the broker."""
    if not hasattr(request, "scope"):
        return _http(
            Response(
                503, b'{"status":"not live","reason":"no hub: this process runs under WSGI"}', {}
            )
        )
    return _http(health.answer("readyz", request.method or ""))


def _http(response: Response) -> HttpResponse:
    headers = {
        **HEADERS,
        **response.headers,
        "Content-Length": str(len(response.body)),  # hosts without CommonMiddleware send chunks
    }
    return HttpResponse(response.body, status=response.status, headers=headers)
