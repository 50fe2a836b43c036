"""An ASGI app in front of Django for event streams and, if the project enables it, the HTTP API.

Django's views cannot serve the streams, and publishing through one costs ten times as much
(ADR-0009). All other requests go to the app behind it untouched (ADR-0033), and so do API requests
with a session cookie instead of a key: `http.views` answers those.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from django.conf import settings

from realtime import wiring
from realtime.api.answers import HEADERS, Response, failure
from realtime.api.methods import (
    METHODS,
    AdmittedRequest,
    admit_again,
    admit_request,
    method_of,
)
from realtime.api.request import EVENTS, Request, RequestTimeout, body_limit
from realtime.auth.sessions import has_session
from realtime.core import paths
from realtime.core.headers import Flaw, flaw_of
from realtime.errors import ConfigurationError, RealtimeError, TooLarge
from realtime.http import documents, health
from realtime.http.loop_backend import respond_here
from realtime.http.staff import look_up_session
from realtime.transports import emulation, sse
from realtime.transports.misdirected import is_handshake_without_upgrade, refuse_plain_http
from realtime.transports.mounting import path_within_project, script_name
from realtime.transports.own_task import is_in_task, run_in_own_task

if TYPE_CHECKING:
    from realtime.api.keys import Keys

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Door = Callable[[str, Scope, Receive, Send], Awaitable[None]]
WholeRequest = Callable[[bytes], Coroutine[Any, Any, Response]]
"""Answers a request when its whole body is known."""

BODY_SECONDS = 10.0
"""To receive the whole body; nginx's client_body_timeout allows 60 between two reads."""
API_NAMES = frozenset(METHODS) | documents.DOCUMENTS.keys()
"""What is below the prefix of the API."""
COMMON_HEADERS = {name.lower(): value for name, value in HEADERS.items()}
"""Headers of every response of the API."""
_COMMON_PAIRS = [(name.encode(), value.encode()) for name, value in COMMON_HEADERS.items()]


class HttpEndpoint:
    """See the module docstring. Dispatches by path."""

    def __init__(
        self,
        app: App,
        *,
        api: str = "",
        probes: str = "",
        owns_site: bool = False,
        body_seconds: float = BODY_SECONDS,
    ) -> None:
        """Wrap an app.

        Args:
            app: Gets all requests that are not answered here: Django.
            api: The prefix of the HTTP API, such as ``/live/api/``. By default only Django's views
                (``include("realtime.urls")``) serve the API. Include them under the same prefix,
                without its ``api/``, for members of the staff without a key.
            probes: The prefix of ``livez`` and ``readyz``, to answer them before Django, whose
                middleware may redirect or refuse a probe.
            owns_site: For a service whose whole site is this endpoint's: what does not exist below
                `api` is answered with 404 here, and the headers of all requests are checked.
            body_seconds: How long the body of a request may take.

        Raises:
            ConfigurationError: A prefix is invalid.
        """
        _check_prefix("api", api, f"/{paths.API}")
        _check_prefix("probes", probes, "/")
        self._app = app
        self._api_prefix = api
        self._lane_prefix = api.encode()
        self._probes_prefix = probes
        self._owns_site = owns_site
        self._body_seconds = body_seconds

    def take_whole(self, url: bytes, headers: Sequence[tuple[bytes, bytes]]) -> WholeRequest | None:
        """Return what answers a POST whose body the server has already, without ASGI (ADR-0034).

        None if the request is not plainly one to the API with a key; it must then take the usual
        way, which decides all other cases. Nothing is checked twice: what is returned does all that
        the usual way does for such a request, and again for each that repeats the head.

        Args:
            url: The target in the first line of the request.
            headers: All headers, with names in lower case.
        """
        prefix = self._lane_prefix
        if not prefix or not url.startswith(prefix) or settings.FORCE_SCRIPT_NAME:
            return None
        name = url[len(prefix) :].decode("latin-1")  # with a query or an escape, it is no method
        if name not in METHODS:
            return None
        given = {key: value.decode("latin-1") for key, value in headers}
        if b"x-api-key" not in given or len(given) != len(headers):
            return None
        if len(headers) > wiring.http_limits().headers:
            return None
        # Each body has its own length, which is checked with the body.
        return _WholeRequests(_head(name, "POST", "", given)._replace(content_length=""))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request (ASGI 3)."""
        if is_in_task():
            await self._serve(scope, receive, send)
        else:
            await run_in_own_task(self._serve(scope, receive, send))

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        door = self._door_of(scope)
        if (door is not None or self._owns_site) and (flaw := _flaw_of(scope)) is not None:
            await _send(send, _refuse_flaw(flaw))
        elif door is not None:
            serve, name = door
            await serve(name, scope, receive, send)
        elif is_handshake_without_upgrade(scope):
            await refuse_plain_http(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _door_of(self, scope: Scope) -> tuple[Door, str] | None:
        """Return what serves a request, and the rest of its path; None for the app behind."""
        if scope["type"] != "http":
            return None
        path: str = scope["path"]
        if settings.FORCE_SCRIPT_NAME or scope.get("root_path"):
            path = path_within_project(scope)
        name = _below(self._api_prefix, path)
        if name is not None and (self._owns_site or name in API_NAMES):
            return (self._document if name in documents.DOCUMENTS else self._method), name
        name = _below(wiring.path_prefix(), path)
        if name is not None and name in paths.STREAMS:
            return self._stream, name
        name = _below(self._probes_prefix, path)
        if name is not None and name in paths.PROBES:
            return self._probe, name
        return None

    async def _document(self, name: str, scope: Scope, receive: Receive, send: Send) -> None:
        wanted = _headers(scope).get(b"if-none-match", "")
        shown = paths.for_browsers(scope["path"], script_name(scope))
        await _send(send, documents.answer(scope["method"], shown, wanted))

    async def _probe(self, name: str, scope: Scope, receive: Receive, send: Send) -> None:
        await _send(send, health.answer(name, scope["method"]))

    async def _method(self, name: str, scope: Scope, receive: Receive, send: Send) -> None:
        headers = _headers(scope)
        query = scope["query_string"].decode("latin-1")
        head = _head(name, scope["method"], query, headers)
        if b"x-api-key" not in headers and has_session(headers.get(b"cookie", "")):
            await self._hand_on(scope, head, receive, send)
        else:
            await _send(send, await self._api(head, receive))

    async def _stream(self, name: str, scope: Scope, receive: Receive, send: Send) -> None:
        is_emulated = emulation.is_ours(name, scope)
        limit = emulation.body_bytes() if is_emulated else wiring.limits().frame_bytes
        read = partial(_body, receive, limit, self._body_seconds)
        rim = emulation if is_emulated else sse
        answer = await rim.serve(name, scope, receive, send, read)
        if answer is not None:
            await _send(send, answer)

    async def _hand_on(self, scope: Scope, head: Request, receive: Receive, send: Send) -> None:
        """Pass the request to Django's view, if its session may publish.

        Django would read the whole body of any request with a cookie before looking at the session.
        So the session is checked first, and the body is read here, up to its limit.
        """
        try:
            method_of(head)
            await look_up_session(scope, head)
            body = await _body(receive, head.most_bytes, self._body_seconds)
        except RealtimeError as error:
            await _send(send, failure(error))
        else:
            await self._app(scope, _once_more(body, receive), send)

    async def _api(self, request: Request, receive: Receive) -> Response:
        try:
            admitted = admit_request(request, wiring.keyring().admit)
            body = await _body(receive, request.most_bytes, self._body_seconds)
            return await respond_here(admitted, body)
        except RealtimeError as error:
            return failure(error)


def _below(prefix: str, path: str) -> str | None:
    """Return the rest of a path below a prefix; None if it is not below it, or there is no prefix.

    Args:
        prefix: Begins and ends with a slash; empty is none.
        path: The path of a request.
    """
    return path[len(prefix) :] if prefix and path.startswith(prefix) else None


def _headers(scope: Scope) -> dict[bytes, str]:
    headers: dict[bytes, str] = {}
    for name, value in scope["headers"]:
        text = value.decode("latin-1")
        headers[name] = f"{headers[name]},{text}" if name in headers else text
    return headers


def _check_prefix(name: str, prefix: str, end: str) -> None:
    if prefix and not (prefix.startswith("/") and prefix.endswith(end)):
        raise ConfigurationError(
            f"HttpEndpoint({name}=…)", f"must begin with / and end with {end}, not {prefix!r}"
        )


def _flaw_of(scope: Scope) -> Flaw | None:
    return (
        flaw_of(scope["headers"], wiring.http_limits().headers) if scope["type"] == "http" else None
    )


def _refuse_flaw(flaw: Flaw) -> Response:
    if flaw.limit:
        wiring.limit_reached(flaw.limit)
    # In the format of the API, because publishers read this, too.
    error = {"code": 107, "reason": "bad_request", "message": flaw.reason}
    body = msgspec.json.encode({"error": error}) + b"\n"
    return Response(flaw.status, body, {"Connection": "close"})


def _head(api_method: str, http_method: str, query: str, headers: dict[bytes, str]) -> Request:
    limits = wiring.http_limits()
    return Request(
        http_method=http_method,
        api_method=api_method,
        content_length=headers.get(b"content-length", ""),
        content_type=headers.get(b"content-type", ""),
        content_encoding=headers.get(b"content-encoding", ""),
        api_key=headers.get(b"x-api-key", ""),
        idempotency_key=headers.get(b"idempotency-key"),
        query=query,
        body_bytes=body_limit(api_method, limits.body_bytes, limits.batch_bytes),
        attributes=_attributes(headers) if api_method == EVENTS else None,
        traceparent=headers.get(b"traceparent", ""),
    )


def _attributes(headers: dict[bytes, str]) -> dict[str, str]:
    """Return the headers that are attributes of a CloudEvent."""
    return {
        name[3:].decode("latin-1"): text for name, text in headers.items() if name[:3] == b"ce-"
    }


class _WholeRequests:
    """Answers the requests with one head; their key is only looked up when the keys have changed.

    So a repeated head costs no digest of its key, and a key that is withdrawn is refused as soon as
    its file was read again.
    """

    __slots__ = ("_admitted", "_head", "_keys")

    def __init__(self, head: Request) -> None:
        self._head = head
        self._keys: Keys | None = None
        self._admitted: AdmittedRequest | None = None

    def __call__(self, body: bytes) -> Coroutine[Any, Any, Response]:
        try:
            admitted = self._admit()
        except RealtimeError as error:
            return _fail(error)
        return respond_here(admitted, body)

    def _admit(self) -> AdmittedRequest:
        keyring = wiring.keyring()
        keys = keyring.current()
        if self._admitted is not None and keys is self._keys:
            admit_again(self._admitted)
        else:
            self._admitted = None
            self._admitted = admit_request(self._head, keyring.admit)
            self._keys = keys
        return self._admitted


async def _fail(error: RealtimeError) -> Response:
    return failure(error)


async def _body(receive: Receive, limit: int, seconds: float) -> bytes:
    body = bytearray()  # not a list of parts: each byte may be one
    try:
        async with asyncio.timeout(seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise RequestTimeout("the client disconnected")
                body += message.get("body", b"")
                if len(body) > limit:
                    raise TooLarge("the body", len(body), limit)
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise RequestTimeout(f"the body did not arrive within {seconds:g} s") from None


def _once_more(body: bytes, receive: Receive) -> Receive:
    """Return a callable that replays a body already read, then continues with `receive`."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return waiting.pop() if waiting else await receive()

    return receive_again


async def _send(send: Send, response: Response) -> None:
    pairs = _COMMON_PAIRS
    if response.headers:
        own = {name.lower(): value for name, value in response.headers.items()}
        headers = COMMON_HEADERS | own
        pairs = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    if response.status not in (204, 304):  # these have no body (RFC 9110 §8.6)
        pairs = [*pairs, (b"content-length", b"%d" % len(response.body))]
    await send({"type": "http.response.start", "status": response.status, "headers": pairs})
    await send({"type": "http.response.body", "body": response.body})
