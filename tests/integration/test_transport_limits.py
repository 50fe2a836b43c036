"""Limits on bytes and connections before a client has identified itself."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from typing import Any

import pytest
import websockets
from uvicorn.server import ServerState

from notifier import counting
from notifier.bodies import BoundedBodies
from notifier.counting import SPARE_CONNECTIONS, SPARE_PER_ADDRESS, Config, ConnectionLimiter
from notifier.http import HttpProtocol
from notifier.websocket import WebSocketProtocol
from realtime.core.limits import Limits, Rate
from tests.support.eventually import eventually
from tests.support.logs import warnings_in
from tests.support.machine import in_time
from tests.support.raw import TEXT, Raw, frame, handshake, status_of

BOUND = 1000
HEAD = b"POST /a HTTP/1.1\r\nHost: h\r\n"
CLOSING = HEAD + b"Connection: close\r\n"
CLOSE = b"\r\nConnection: close\r\n\r\n"
GET = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"


def limits(connections: int = 100, per_address: int = 0) -> Limits:
    return Limits(
        connections=connections,
        connections_per_user=0,
        connections_per_address=per_address,
        channels_per_connection=1,
        commands=Rate(1, 1),
        publications=Rate(1, 1),
        connect_seconds=1,
    )


class Host:
    """An app that records how much it received, and what was refused."""

    def __init__(self) -> None:
        self.reached: Counter[str] = Counter()
        self.state = ServerState()
        self.taken: list[int] = []
        self.messages: list[str] = []
        self.ended = asyncio.Event()

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            while (message := await receive())["type"] == "websocket.receive":
                self.messages.append(message["text"])
            return
        if scope["path"] == "/deaf":
            await send({"type": "http.response.start", "status": 401, "headers": []})
            await send({"type": "http.response.body", "body": b"no"})
            return
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.ended.set()
                return
            size, more = size + len(message["body"]), message["more_body"]
        self.taken.append(size)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
async def host() -> Host:
    return Host()


Serve = Callable[..., Any]


@pytest.fixture
async def serve(host: Host) -> AsyncIterator[Serve]:
    loop, servers, configs = asyncio.get_running_loop(), [], []

    async def start(app: Any = None, **options: Any) -> int:
        config = Config(
            app or host.app,
            reached=lambda name: host.reached.update([name]),
            interface="asgi3",
            log_config=None,
            ws=WebSocketProtocol,
            ws_per_message_deflate=False,
            timeout_keep_alive=30,
            **{"body_bytes": BOUND, **options},
        )
        configs.append(config)
        made = await loop.create_server(
            lambda: HttpProtocol(config, host.state, {}), "127.0.0.1", 0
        )
        servers.append(made)
        port: int = made.sockets[0].getsockname()[1]
        return port

    yield start
    for server in servers:
        server.close()
    for connection in list(host.state.connections):
        connection.transport.abort()  # type: ignore[union-attr]
    await eventually(lambda: not host.state.connections and not host.state.tasks)
    assert all(config.limiter is None or config.limiter.is_empty for config in configs)


async def ask(port: int, *parts: bytes) -> bytes:
    def said() -> bytes:
        with Raw(port) as peer:
            return peer.send(*parts).rest()

    return await asyncio.to_thread(said)


def length(size: int) -> bytes:
    return b"Content-Length: %d\r\n\r\n" % size


def chunk(size: int) -> bytes:
    return b"%x\r\n%s\r\n" % (size, b"x" * size)


CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"


# ------------------------------------------------------------------------------------- bodies


@pytest.mark.parametrize(
    "parts",
    [
        [HEAD + length(2**40)],
        [HEAD + length(BOUND + 1)],
        [HEAD + length(BOUND + 1) + b"x" * (BOUND + 1)],
        [HEAD + length(2**20), b"x" * 2**20],
        [HEAD + CHUNKED + chunk(BOUND + 1)],
        [HEAD + CHUNKED, *[chunk(300)] * 4],
        [HEAD + CHUNKED + b"fffffffffff\r\n", b"x" * 100_000],
        [HEAD + b"Connection: Upgrade\r\nUpgrade: h2c\r\n" + length(BOUND + 1)],
    ],
    ids=[
        *("a terabyte", "announced", "whole", "sent all the same", "one chunk", "chunks"),
        *("an endless chunk", "behind an offer"),
    ],
)
async def test_a_body_over_the_limit_is_a_readable_413_on_any_path(
    host: Host, serve: Serve, parts: list[bytes]
) -> None:
    """Closing with unread bytes would reset the connection and lose the response (RFC 9112 §9.6).

    Issue 15, B8: everything passed on to Django was spooled, 199 MiB of it, before it was refused.
    """
    answer = await ask(await serve(), *parts)
    assert status_of(answer) == 413
    assert b'"reason":"too_large"' in answer
    assert b"connection: close" in answer
    assert host.reached == {"request_body_bytes": 1}
    assert not host.taken


async def test_a_body_of_exactly_the_limit_is_accepted(host: Host, serve: Serve) -> None:
    port = await serve()
    for said in (length(BOUND) + b"x" * BOUND, CHUNKED + chunk(BOUND // 2) * 2 + b"0\r\n\r\n"):
        assert status_of(await ask(port, CLOSING + said)) == 200
    assert host.taken == [BOUND, BOUND]
    assert not host.reached


async def test_an_app_that_has_already_answered_answers_once(host: Host, serve: Serve) -> None:
    """The body of a request that is already answered continues without limit."""
    head = b"POST /deaf HTTP/1.1\r\nHost: h\r\n" + CHUNKED
    with Raw(await serve()) as peer:
        assert status_of(await asyncio.to_thread(peer.send(head, chunk(10)).head)) == 401
        rest = await asyncio.to_thread(peer.send(*[chunk(300)] * 4).rest)
    assert b"HTTP/1.1" not in rest
    assert host.reached == {"request_body_bytes": 1}


async def test_an_app_waiting_for_an_oversized_body_sees_a_disconnect(
    host: Host, serve: Serve
) -> None:
    assert status_of(await ask(await serve(), HEAD + CHUNKED, *[chunk(300)] * 4)) == 413
    await in_time(host.ended.wait(), 5)


async def test_a_refused_client_that_keeps_sending_is_cut_off(
    host: Host, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("notifier.http_refusals.LINGER_BYTES", 100_000)
    port = await serve()
    with Raw(port) as peer:
        await asyncio.to_thread(peer.send, HEAD + length(2**40), *[b"x" * 65_536] * 400)
        await eventually(lambda: not host.state.connections)


async def test_a_refused_client_that_never_leaves_is_cut_off(
    host: Host, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("notifier.http_refusals.LINGER_SECONDS", 0.2)
    with Raw(await serve()) as peer:
        peer.send(HEAD + length(2**40))
        await eventually(lambda: host.reached)
        await eventually(lambda: not host.state.connections)


@pytest.mark.parametrize(
    "parts",
    [
        [HEAD + length(501)],
        [HEAD + length(501), b"x" * 501],
        [HEAD + CHUNKED, chunk(300), chunk(201), b"0\r\n\r\n"],
        [HEAD + CHUNKED, *[chunk(400)] * 2],  # and no end
    ],
)
async def test_request_bodies_for_django_have_their_own_limit(
    host: Host, serve: Serve, parts: list[bytes]
) -> None:
    parts = [parts[0].replace(b"Host: h", b"Host: h\r\nConnection: close"), *parts[1:]]
    answer = await ask(await serve(BoundedBodies(host.app, 500)), *parts)
    assert status_of(answer) == 413
    assert not host.taken


async def test_concurrent_django_requests_are_limited_even_after_hang_ups(
    host: Host, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("notifier.bodies.REQUESTS_AT_ONCE", 3)
    may_end = asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await may_end.wait()
        await host.app({**scope, "path": "/deaf"}, receive, send)

    port = await serve(BoundedBodies(slow))
    for number in range(3):
        with Raw(port).send(GET):
            await eventually(lambda number=number: len(host.state.tasks) == number + 1)
    assert status_of(await ask(port, GET.replace(b"\r\n\r\n", CLOSE))) == 503
    may_end.set()
    await eventually(lambda: not host.state.tasks)
    assert status_of(await ask(port, GET.replace(b"\r\n\r\n", CLOSE))) == 401


async def test_clients_that_withhold_their_bodies_leave_the_places_to_others(
    host: Host, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few hundred of them made every page of the service answer 503."""
    monkeypatch.setattr("notifier.bodies.REQUESTS_AT_ONCE", 2)
    port = await serve(BoundedBodies(host.app, 500))
    with contextlib.ExitStack() as withheld:
        for _ in range(5):
            withheld.enter_context(Raw(port).send(HEAD + length(5) + b"half"))
        await eventually(lambda: len(host.state.tasks) == 5)
        assert status_of(await ask(port, CLOSING + length(5) + b"whole")) == 200


@pytest.mark.parametrize(("digits", "status"), [(b"0" * 5000 + b"5", 200), (b"9" * 19, 413)])
async def test_a_length_with_thousands_of_zeros_is_a_number(
    host: Host, serve: Serve, caplog: pytest.LogCaptureFixture, digits: bytes, status: int
) -> None:
    """The parser takes it, and Python refuses to convert it: that was a traceback and a 500."""
    port = await serve(BoundedBodies(host.app, 500))
    said = CLOSING + b"Content-Length: " + digits + b"\r\n\r\n"
    with Raw(port) as peer:
        peer.send(said)  # the deadline of the body is set while it is incomplete
        await eventually(lambda: host.state.connections)
        peer.send(b"12345")
        assert status_of(await asyncio.to_thread(peer.rest)) == status
    assert not warnings_in(caplog)


async def test_data_behind_a_refused_form_is_not_parsed_as_a_request(
    host: Host, serve: Serve
) -> None:
    """The connection can be reused after the whole body; its responses stay in order."""
    port = await serve(BoundedBodies(host.app, 500))
    said = HEAD + length(600) + (GET * 30)[:600] + GET.replace(b"\r\n\r\n", CLOSE)
    answer = await ask(port, said)
    assert answer.count(b"HTTP/1.1 ") == 2
    assert answer.count(b"HTTP/1.1 413 ") == answer.count(b"HTTP/1.1 200 ") == 1


async def test_a_body_for_django_may_be_as_large_as_its_limit(host: Host, serve: Serve) -> None:
    port = await serve(BoundedBodies(host.app, 500))
    for said in (length(500) + b"x" * 500, CHUNKED + chunk(250) * 2 + b"0\r\n\r\n"):
        assert status_of(await ask(port, CLOSING + said)) == 200
    assert host.taken == [500, 500]


# -------------------------------------------------------------------------------- connections


SILENT, IDLE, SLOW, WEBSOCKET = b"", GET, HEAD + b"Content-Length: 9\r\n\r\n12", handshake()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "SPARE_CONNECTIONS", 2)
    monkeypatch.setattr(counting, "SPARE_PER_ADDRESS", 2)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("given", "status", "name"),
    [
        (limits(2), 503, "transport_connections"),
        (limits(100, per_address=2), 429, "transport_connections_per_address"),
    ],
    ids=["node", "address"],
)
async def test_connections_of_every_protocol_are_counted(
    host: Host, serve: Serve, given: Limits, status: int, name: str
) -> None:
    """Silent, idle, slow, or a WebSocket, which counts as one connection and not as two.

    Issue 15, B8: plain HTTP connections were not counted at all.
    """
    port = await serve(limits=given, forwarded_allow_ips="10.0.0.1")
    with ExitStack() as peers:
        spoken = (SILENT, IDLE, SLOW, WEBSOCKET)
        inside = [peers.enter_context(Raw(port).send(said)) for said in spoken]
        assert b"101" in await asyncio.to_thread(inside[-1].head)
        await eventually(lambda: len(host.state.connections) == 4)
        answer = await ask(port, GET)
        assert status_of(answer) == status
        assert b"retry-after: 5" in answer
        assert host.reached == {name: 1}
        for place, peer in enumerate(
            inside
        ):  # a closed connection makes room for one, whatever its protocol
            peer.socket.close()
            await eventually(lambda: len(host.state.connections) == 3)
            inside[place] = peers.enter_context(Raw(port).send(GET))
            assert status_of(await asyncio.to_thread(inside[place].head)) == 200
            assert status_of(await ask(port, GET)) == status


@pytest.mark.usefixtures("small")
async def test_a_proxy_address_is_not_limited(host: Host, serve: Serve) -> None:
    port = await serve(limits=limits(100, per_address=1), forwarded_allow_ips="127.0.0.0/8")
    with ExitStack() as peers:
        for _ in range(20):
            peer = peers.enter_context(Raw(port).send(GET))
            assert status_of(await asyncio.to_thread(peer.head)) == 200
    assert not host.reached


@pytest.mark.usefixtures("small")
async def test_refusals_over_the_limit_are_closed_without_a_response(
    host: Host, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refused client has two seconds to read why; only a limited number get that time."""
    monkeypatch.setattr(counting, "REFUSALS_AT_ONCE", 1)
    port = await serve(limits=limits(0))
    with ExitStack() as peers:
        for _ in range(2):
            peers.enter_context(Raw(port))
        await eventually(lambda: len(host.state.connections) == 2)
        answered = peers.enter_context(Raw(port))
        assert status_of(await asyncio.to_thread(answered.head)) == 503
        assert await ask(port, GET) == b""
        assert host.reached == {"transport_connections": 2}


async def test_a_full_node_still_answers_publishers_and_probes() -> None:
    """The maximum number of WebSockets leaves room for other connections."""
    limiter = ConnectionLimiter(limits(5, per_address=3), "127.0.0.1")
    for number in range(5 + SPARE_CONNECTIONS):
        assert limiter.enter((f"10.0.{number // 250}.{number % 250}", 1)) is None
    assert limiter.enter(("10.9.9.9", 1)) == "transport_connections"
    limiter = ConnectionLimiter(limits(5, per_address=3), "127.0.0.1")
    for _ in range(3 + SPARE_PER_ADDRESS):
        assert limiter.enter(("10.0.0.1", 1)) is None
    assert limiter.enter(("10.0.0.1", 1)) == "transport_connections_per_address"
    assert limiter.enter(("10.0.0.2", 1)) is None
    assert limiter.enter(None) is None, "a Unix socket has no address"


# ------------------------------------------------------------------------- the first message


async def test_a_large_message_before_connect_is_not_buffered(host: Host, serve: Serve) -> None:
    port = await serve(first_frame_bytes=1000, ws_max_size=5000)
    for said in ([frame(TEXT, b"x" * 1001)], [frame(TEXT, b"x", fin=False), frame(0, b"x" * 1000)]):
        with Raw(port) as peer:
            await asyncio.to_thread(peer.upgraded)
            assert await asyncio.to_thread(peer.send(*said).closed) == 1009
    with Raw(port) as peer:  # a client that has, even in the same packet
        await asyncio.to_thread(peer.upgraded)
        peer.send(frame(TEXT, b"x", fin=False) + frame(0, b"x") + frame(TEXT, b"x" * 5000))
        await eventually(lambda: host.messages == ["xx", "x" * 5000])
        assert await asyncio.to_thread(peer.send(frame(TEXT, b"x" * 5001)).closed) == 1009


async def test_a_websocket_keeps_nothing_of_the_request_that_opened_it(serve: Serve) -> None:
    """5.5 KiB for each of 100,000 clients would be half a gigabyte."""
    port = await serve(limits=limits())
    async with websockets.connect(f"ws://127.0.0.1:{port}/", compression=None):
        gc.collect()
        assert not [each for each in gc.get_objects() if type(each) is HttpProtocol]
