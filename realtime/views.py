"""The HTTP API and the health probes as Django views, for hosts that ``include("realtime.urls")``.

The publishing view is synchronous: it works under WSGI and ASGI alike, on the sync client.
"""

from __future__ import annotations

from typing import Any

from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse, UnreadablePostError
from django.views.decorators.csrf import csrf_exempt

from realtime import documents, health, wiring
from realtime.api import (
    Access,
    Admitted,
    Ask,
    Count,
    Look,
    Members,
    Take,
    Task,
    Tell,
    admitted,
    respond,
)
from realtime.api.answers import HEADERS, Response, failure
from realtime.api.head import EVENTS, Request, RequestTimeout
from realtime.auth import has_session
from realtime.brokers.redis_sync import SyncRedisBroker
from realtime.errors import RealtimeError
from realtime.staff import key_of_session


@login_not_required
@csrf_exempt  # a key is in a header that no other site's page can send; `staff` checks the rest
def api(request: HttpRequest, method: str) -> HttpResponse:
    """Answer one request to the API."""
    head = _head(request, method)
    try:
        welcome = admitted(head, _access(request, head))
        return _http(_respond(welcome, _body(request, wiring.body_bytes(method))))
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


def _respond(request: Admitted, body: bytes) -> Response:
    """Drive `realtime.api.respond` with the publisher for threads."""
    work = respond(request, body, wiring.namespaces(), wiring.routes())
    try:
        task = next(work)
        while True:
            try:
                done = _done(task)
            except RealtimeError as error:
                task = work.throw(error)
            else:
                task = work.send(done)
    except StopIteration as end:
        response: Response = end.value
        return response


def _done(task: Task) -> Any:
    if isinstance(task, Tell):
        return wiring.tell_nodes_sync(task.command)
    if isinstance(task, Look | Members | Count | Ask):
        return _seen(task, wiring.sync_broker())
    publisher = wiring.sync_publisher()
    if isinstance(task, Take):
        return publisher.take(*task)
    if len(task.publications) == 1:
        return [publisher.publish(task.publications[0])]
    return publisher.publish_many(task.publications)


def _seen(task: Look | Members | Count | Ask, broker: SyncRedisBroker) -> Any:
    if isinstance(task, Members):
        return broker.members(task.channel)
    if isinstance(task, Count):
        return broker.headcount(task.channel)
    if isinstance(task, Ask):
        return broker.survey(task.question)
    return broker.queue_stats()


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
