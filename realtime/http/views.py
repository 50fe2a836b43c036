"""The HTTP API and the health probes as Django views, for hosts that ``include("realtime.urls")``.

The view of the API is synchronous, with a synchronous Redis client: it works under WSGI and ASGI.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse, UnreadablePostError
from django.views.decorators.csrf import csrf_exempt

from realtime import wiring
from realtime.api.answers import HEADERS, Response, failure
from realtime.api.backend import Outcome, run_blocking
from realtime.api.methods import Access, admit_request, respond
from realtime.api.request import EVENTS, Request, RequestTimeout
from realtime.auth.sessions import has_session
from realtime.core.paths import for_browsers
from realtime.core.positions import by_channel
from realtime.errors import RealtimeError
from realtime.http import documents, health
from realtime.http.staff import key_of_session
from realtime.wiring.metering import HTTP

if TYPE_CHECKING:
    from realtime.brokers import Stats, Survey
    from realtime.core.members import Headcount
    from realtime.core.node_commands import NodeCommand
    from realtime.core.positions import Position
    from realtime.core.publication import Publication, Receipt
    from realtime.core.survey import Question

logger = logging.getLogger(__name__)


@login_not_required
@csrf_exempt  # pages of other sites cannot send the header with the key; `staff` checks CSRF
def api(request: HttpRequest, method: str) -> HttpResponse:
    """Answer one request to the API."""
    head = _head(request, method)
    try:
        admitted = admit_request(head, _access(request, head))
        body = _body(request, head.most_bytes)
        backend = _StaffBackend(request) if _is_by_session(request) else _BACKEND
        work = respond(admitted, body, backend, wiring.namespaces(), wiring.routes())
        return _http(run_blocking(wiring.continue_trace(head.traceparent, work)))
    except RealtimeError as error:
        return _http(failure(error))


def _access(request: HttpRequest, head: Request) -> Access:
    if _is_by_session(request):
        return lambda _: key_of_session(request, head)
    return wiring.keyring().admit


def _is_by_session(request: HttpRequest) -> bool:
    return "X-API-Key" not in request.headers and has_session(request.headers.get("Cookie", ""))


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
        traceparent=request.headers.get("Traceparent", ""),
    )


def _attributes(request: HttpRequest) -> dict[str, str]:
    """Return the headers that are attributes of a CloudEvent."""
    headers = ((name.lower(), text) for name, text in request.headers.items())
    return {name[3:]: text for name, text in headers if name.startswith("ce-")}


def _body(request: HttpRequest, limit: int) -> bytes:
    try:
        return request.read(limit + 1)
    except UnreadablePostError as error:
        raise RequestTimeout("the client disconnected") from error


class _Backend:
    """The blocking `realtime.api.backend.Backend`, for threads; its coroutines never suspend."""

    async def publish(self, publication: Publication) -> Receipt:
        return wiring.publish_sync(publication, method=HTTP)

    async def publish_many(self, publications: Sequence[Publication]) -> list[Outcome]:
        return wiring.publish_many_sync(publications, method=HTTP)

    async def take_from_rate(self, name: str, rate: float, count: int) -> float:
        return wiring.sync_broker().take_from_rate(name, rate, count)

    async def send_node_command(self, command: NodeCommand) -> None:
        wiring.send_node_command_sync(command)

    async def queue_stats(self) -> Stats:
        return wiring.sync_broker().queue_stats()

    async def positions(self, channels: Sequence[str]) -> dict[str, Position]:
        return by_channel(channels, wiring.read_positions_sync(channels))

    async def members(self, channel: str) -> dict[str, str]:
        return wiring.sync_broker().members(channel)

    async def headcount(self, channel: str) -> Headcount:
        return wiring.sync_broker().headcount(channel)

    async def survey(self, question: Question) -> Survey:
        return wiring.sync_broker().survey(question)


_BACKEND = _Backend()


class _StaffBackend(_Backend):
    """Logs what a member of the staff publishes: the key of a session is nobody else's."""

    def __init__(self, request: HttpRequest) -> None:
        self._request = request

    async def publish(self, publication: Publication) -> Receipt:
        try:
            receipt = await super().publish(publication)
        except RealtimeError as error:
            self._log(publication, error)
            raise
        self._log(publication, receipt)
        return receipt

    async def publish_many(self, publications: Sequence[Publication]) -> list[Outcome]:
        outcomes = await super().publish_many(publications)
        for publication, outcome in zip(publications, outcomes, strict=True):
            self._log(publication, outcome)
        return outcomes

    def _log(self, publication: Publication, outcome: Outcome) -> None:
        user: Any = self._request.user  # logged in: the session was admitted
        if isinstance(outcome, RealtimeError):
            words = outcome.code
        else:
            words = f"offset {outcome.offset}{', repeated' if outcome.repeated else ''}"
        name = ascii(user.get_username())[1:-1]
        logger.info("staff member %s: publish on %s: %s", name, publication.channel, words)


@login_not_required
@csrf_exempt  # only GET is allowed
def document(request: HttpRequest) -> HttpResponse:
    """Return the OpenAPI or AsyncAPI description."""
    wanted = request.headers.get("If-None-Match", "")
    # Not `request.path`, which lacks the prefix if a proxy strips it.
    path = for_browsers(request.path_info, request.META.get("SCRIPT_NAME", ""))
    return _http(documents.answer(request.method or "", path, wanted))


@login_not_required
@csrf_exempt  # only GET is allowed
def livez(request: HttpRequest) -> HttpResponse:
    """Answer whether this process is alive."""
    return _http(health.answer("livez", request.method or ""))


@login_not_required
@csrf_exempt  # as above
async def readyz(request: HttpRequest) -> HttpResponse:
    """Answer whether this process should get traffic."""
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
        # Hosts without CommonMiddleware would send chunks.
        "Content-Length": str(len(response.body)),
    }
    return HttpResponse(response.body, status=response.status, headers=headers)
