"""Our HTTP protocol class has deadlines, and buffers no more than a request needs."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from uvicorn.server import ServerState

from notifier.counting import Config
from notifier.http import (
    AHEAD_BYTES,
    HEAD_BYTES,
    HEADERS_LIMIT,
    PIPELINE_LIMIT,
    HttpProtocol,
    Waiting,
)
from notifier.http_answers import Lane, Work
from notifier.websocket import WebSocketProtocol
from realtime.api.answers import Response
from tests.support.eventually import eventually
from tests.support.logs import warnings_in
from tests.support.machine import in_time, within

READ_BYTES = 256 * 1024  # the size of asyncio's reads of a socket
GET = b"GET /a HTTP/1.1\r\nHost: h\r\n"
POST = b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n"


class Quick(HttpProtocol):
    """Uses tenths instead of seconds."""

    seconds = {Waiting.HEAD: 0.4, Waiting.BODY: 0.6}  # noqa: RUF012
    unread_seconds = 0.5


class Host:
    """An app that responds when it has the body, and only when the test allows it."""

    def __init__(self, *, has_lane: bool = False) -> None:
        self.has_lane = has_lane
        self.reached: Counter[str] = Counter()
        self.served = 0
        self.scopes: list[Any] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.state = ServerState()

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            await receive()
            return
        while (message := await receive()).get("more_body"):
            pass
        if message["type"] == "http.disconnect":
            return
        self.scopes.append(scope)
        await self.may_answer.wait()
        self.served += 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    def lane(self, url: bytes, headers: Sequence[tuple[bytes, bytes]]) -> Work:
        async def answer(body: bytes) -> Response:
            self.scopes.append({"headers": list(headers), "body": body})
            await self.may_answer.wait()
            self.served += 1
            return Response(200, b"ok\r\n0\r\n\r\n", {})  # what the app sends in chunks

        return answer

    def protocol(self) -> HttpProtocol:
        config = Config(
            self.app,
            reached=lambda name: self.reached.update([name]),
            lane=Lane(self.lane, {}) if self.has_lane else None,
            interface="asgi3",
            log_config=None,
            ws=WebSocketProtocol,
            timeout_keep_alive=1,
        )
        return Quick(config, self.state, {})


@pytest.fixture(params=["through ASGI", "in the lane"])
async def host(request: pytest.FixtureRequest) -> Host:
    return Host(has_lane=request.param == "in the lane")


@pytest.fixture
async def port(host: Host) -> AsyncIterator[int]:
    server = await asyncio.get_running_loop().create_server(host.protocol, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    host.may_answer.set()
    server.close()
    await eventually(lambda: not host.state.connections and not host.state.tasks)


class Peer:
    """A socket that sends exactly what the test says."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def to(cls, port: int) -> Peer:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def say(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def drip(self, data: bytes, seconds: float = 0.05) -> None:
        """Send one byte after the other, until the other end closes."""
        for place in range(len(data)):
            if self._reader.at_eof() or self._writer.is_closing():
                return
            self._writer.write(data[place : place + 1])
            await asyncio.sleep(seconds)  # that is the attack

    def abort(self) -> None:
        """Disappear with a RST."""
        self._writer.transport.abort()

    async def rest(self, seconds: float = 5.0) -> bytes:
        """Return everything until the other end closes."""
        async with within(seconds):
            try:
                return await self._reader.read()
            except ConnectionError:
                return b""
            finally:
                self._writer.close()

    async def head(self) -> bytes:
        async with within(5):
            return await self._reader.readuntil(b"ok\r\n0\r\n\r\n")

    def close(self) -> None:
        self._writer.close()


async def test_a_silent_connection_is_closed(host: Host, port: int) -> None:
    assert await (await Peer.to(port)).rest() == b""
    assert host.reached == {"request_head_seconds": 1}


@pytest.mark.parametrize("said", [GET, b"G", b"GET /a HTTP/1.1\r\nHost: h\r\nX: "])
async def test_an_incomplete_head_is_answered_with_408(host: Host, port: int, said: bytes) -> None:
    peer = await Peer.to(port)
    await peer.say(said)
    assert (await peer.rest()).startswith(b"HTTP/1.1 408 ")
    assert host.reached == {"request_head_seconds": 1}


@pytest.mark.parametrize("said", [GET + b"X-A: b\r\n" * 50, b"\r\n" * 100])
async def test_a_slow_head_has_one_deadline(host: Host, port: int, said: bytes) -> None:
    """Stock Daphne allows each byte a minute, stock uvicorn waits forever."""
    peer = await Peer.to(port)
    await in_time(peer.drip(said), 3)
    await peer.rest()
    assert host.reached == {"request_head_seconds": 1}


async def test_a_slow_second_request_has_a_deadline_too(host: Host, port: int) -> None:
    peer = await Peer.to(port)
    await peer.say(GET + b"\r\n")
    await peer.head()
    await in_time(peer.drip(b"\r\n" * 100), 3)
    await peer.rest()
    assert host.reached == {"request_head_seconds": 1}


class Writing(Host):
    """An app that sends a large response, perhaps as the last one of its connection."""

    def __init__(self, size: int, *headers: tuple[bytes, bytes]) -> None:
        super().__init__()
        self.size, self.headers = size, headers
        self.sent = asyncio.Event()

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.headers})
        part = {"type": "http.response.body", "body": b"x" * self.size, "more_body": True}
        await send(part)
        await send({"type": "http.response.body"})  # waits until the client has read the first
        self.sent.set()


@asynccontextmanager
async def served(host: Host) -> AsyncIterator[socket.socket]:
    """Serve one connection with small buffers in the kernel; yield the client's socket."""

    def protocol() -> HttpProtocol:
        made = host.protocol()
        connected = made.connection_made

        def shrink(transport: Any) -> None:
            peer = transport.get_extra_info("socket")
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            connected(transport)

        made.connection_made = shrink  # type: ignore[method-assign]
        return made

    loop = asyncio.get_running_loop()
    server = await loop.create_server(protocol, "127.0.0.1", 0)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        await loop.sock_connect(client, server.sockets[0].getsockname())
        await loop.sock_sendall(client, GET + b"\r\n")
        try:
            yield client
        finally:
            server.close()
    await eventually(lambda: not host.state.connections and not host.state.tasks)


@pytest.mark.parametrize(
    ("size", "headers"),
    [
        (1024 * 1024, []),  # the app waits in `send`
        (48 * 1024, []),  # it does not: less is left than the transport's high-water mark
        (48 * 1024, [(b"connection", b"close")]),
    ],
)
async def test_a_response_that_nobody_reads_has_a_deadline(
    size: int, headers: list[tuple[bytes, bytes]]
) -> None:
    """An app waited in `send` forever and occupied one of Django's 512 request slots.

    A connection that was to be closed waited forever, too, until its client had read the rest.
    """
    host = Writing(size, *headers)
    async with served(host):
        await eventually(lambda: host.reached == {"response_unread_seconds": 1})
        await eventually(lambda: not host.state.connections)


async def test_a_response_that_is_read_slowly_has_no_deadline() -> None:
    """The buffer stays above the transport's low-water mark for longer than the deadline."""
    host = Writing(1024 * 1024)
    loop, read = asyncio.get_running_loop(), 0
    async with served(host) as client:
        until = loop.time() + 4 * Quick.unread_seconds
        while loop.time() < until:
            read += len(await in_time(loop.sock_recv(client, 4096), 5))
            await asyncio.sleep(Quick.unread_seconds / 50)  # the pace of the client
        assert not host.sent.is_set(), "it was too fast to show anything"
        assert not host.reached
        while read < host.size:
            part = await in_time(loop.sock_recv(client, 2**16), 5)
            assert part, "the server has closed it"
            read += len(part)
        await in_time(host.sent.wait(), 5)


async def test_a_slow_body_has_a_deadline(host: Host, port: int) -> None:
    peer = await Peer.to(port)
    await peer.say(POST + b"12345")
    await peer.rest()
    assert host.reached == {"request_body_seconds": 1}
    assert not host.served


async def test_the_keep_alive_timeout_applies_between_requests(host: Host, port: int) -> None:
    peer = await Peer.to(port)
    for _ in range(3):
        await peer.say(GET + b"\r\n")
        await peer.head()
        await asyncio.sleep(0.5)  # longer than for a head, shorter than to be kept alive
    await peer.rest()
    assert host.served == 3
    assert not host.reached


async def test_a_response_may_take_longer_than_the_request_deadline(host: Host, port: int) -> None:
    host.may_answer.clear()
    peer = await Peer.to(port)
    await peer.say(POST + b"1234567890")
    await asyncio.sleep(0.8)  # longer than for head or body
    host.may_answer.set()
    await peer.head()
    peer.close()
    assert not host.reached


async def test_a_websocket_may_be_silent(host: Host, port: int) -> None:
    peer = await Peer.to(port)
    await peer.say(
        GET + b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    await asyncio.sleep(0.8)  # longer than for head or body
    peer.close()
    assert not host.reached


@pytest.mark.parametrize("count", [HEADERS_LIMIT - 1, HEADERS_LIMIT])  # and Host
async def test_the_number_of_headers_is_limited(host: Host, port: int, count: int) -> None:
    peer = await Peer.to(port)
    await peer.say(GET + b"A: b\r\n" * count + b"\r\n")
    if count < HEADERS_LIMIT:
        await peer.head()
        peer.close()
        return
    assert (await peer.rest()).startswith(b"HTTP/1.1 431 ")
    assert host.reached == {"request_headers": 1}
    assert not host.served


@pytest.mark.parametrize(
    "said",
    [
        GET + b"X: " + b"x" * HEAD_BYTES + b"\r\n\r\n",
        b"GET /" + b"x" * HEAD_BYTES + b" HTTP/1.1\r\nHost: h\r\n\r\n",
        GET + b"X: " + b"x" * 10_000_000,  # and no end
        b"GET /" + b"x" * 10_000_000,
    ],
    ids=["header", "address", "header without end", "address without end"],
)
async def test_the_size_of_a_head_is_limited(host: Host, port: int, said: bytes) -> None:
    peer = await Peer.to(port)
    try:
        await peer.say(said)
    except ConnectionError:
        assert len(said) > 1_000_000
    answer = await peer.rest()
    assert answer.startswith(b"HTTP/1.1 431 ") or (not answer and len(said) > 1_000_000)
    assert host.reached == {"request_head_bytes": 1}
    assert not host.served


@pytest.mark.parametrize(
    ("said", "limit"),
    [
        (GET + b"a:b\r\n" * 12_000, "request_headers"),  # 60 KB, in one read
        (GET + b"X: " + b"x" * 60_000, "request_head_bytes"),
        (GET + b"\r\n" + GET + b"X: " + b"x" * 60_000, "request_head_bytes"),
    ],
    ids=["headers", "a header", "a header of a second request"],
)
async def test_a_head_that_never_ends_is_refused_in_its_first_read(
    host: Host, port: int, said: bytes, limit: str
) -> None:
    """All of it was kept until its deadline: 1.7 MB of objects for 64 KB, on each connection."""
    peer = await Peer.to(port)
    await peer.say(said)
    assert (await peer.rest()).startswith(b"HTTP/1.1 431 ") or said.count(GET) == 2
    assert host.reached == {limit: 1}


async def test_the_number_of_pipelined_requests_is_limited(host: Host, port: int) -> None:
    host.may_answer.clear()
    peer = await Peer.to(port)
    await peer.say((GET + b"\r\n") * 5000)
    await eventually(lambda: host.reached == {"requests_ahead": 1})
    host.may_answer.set()
    await peer.rest()
    assert host.served <= PIPELINE_LIMIT + 1


async def test_a_few_pipelined_requests_are_answered(host: Host, port: int) -> None:
    peer = await Peer.to(port)
    await peer.say((GET + b"\r\n") * PIPELINE_LIMIT)
    for _ in range(PIPELINE_LIMIT):
        await peer.head()
    peer.close()
    assert not host.reached


async def test_a_malformed_request_is_400_and_not_logged(
    host: Host, port: int, caplog: pytest.LogCaptureFixture
) -> None:
    peer = await Peer.to(port)
    await peer.say(b"nonsense\r\n\r\n")
    assert (await peer.rest()).startswith(b"HTTP/1.1 400 ")
    assert not warnings_in(caplog)


class Streaming(Host):
    """Streams on /stream until the client has disconnected."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = 0

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        if scope.get("path") != "/stream":
            await super().app(scope, receive, send)
            return
        await receive()  # its body
        await send({"type": "http.response.start", "status": 200, "headers": []})
        gone = asyncio.ensure_future(receive())
        while not gone.done():
            await send({"type": "http.response.body", "body": b":\n\n", "more_body": True})
            await asyncio.wait({gone}, timeout=0.02)
        self.ended += 1


BEHIND = {
    "nothing": b"",
    "a request": GET + b"\r\n",
    "a body that is not whole": POST,
    "two requests": (GET + b"\r\n") * 2,
    "no request": b"nonsense\r\n\r\n",
    "too many requests": (GET + b"\r\n") * (PIPELINE_LIMIT + 1),
    "a body that is too large": POST.replace(b"10", b"99999999"),
}


@pytest.mark.parametrize("behind", BEHIND.values(), ids=BEHIND)
async def test_a_stream_ends_with_its_client_despite_pipelined_requests(behind: bytes) -> None:
    """With a request behind a stream, the node counted the client until it was restarted."""
    host = Streaming()
    server = await asyncio.get_running_loop().create_server(host.protocol, "127.0.0.1", 0)
    peer = await Peer.to(server.sockets[0].getsockname()[1])
    await peer.say(b"GET /stream HTTP/1.1\r\nHost: h\r\n\r\n" + behind)
    await eventually(lambda: host.state.tasks or host.ended)
    peer.abort()
    await eventually(lambda: host.ended == 1)
    await eventually(lambda: not host.state.connections and not host.state.tasks)
    server.close()


async def test_a_stream_ends_at_once_despite_a_later_pipelined_request() -> None:
    """Reading was paused because of the second request, so the disconnect went unnoticed.

    The stream writes nothing here, as between two pings, so no write can detect it either.
    """
    host = Silent()
    server = await asyncio.get_running_loop().create_server(host.protocol, "127.0.0.1", 0)
    peer = await Peer.to(server.sockets[0].getsockname()[1])
    await peer.say(b"GET /stream HTTP/1.1\r\nHost: h\r\n\r\n")
    await eventually(host.is_streaming.is_set)
    await peer.say(GET + b"\r\n")
    [connection] = host.state.connections
    await eventually(lambda: connection.pipeline)
    peer.close()
    await eventually(lambda: host.ended == 1)
    await eventually(lambda: not host.state.connections and not host.state.tasks)
    server.close()


@pytest.mark.parametrize(
    "ahead",
    [
        (GET + b"\r\n") * 1000,
        (POST + b"1234567890") * 1000,
        b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 400000\r\n\r\n" + b"x" * 400_000,
        GET + b"X-A: " + b"x" * 20_000 + b"\r\n\r\n",
    ],
    ids=["requests", "small bodies", "a large body", "large heads"],
)
async def test_data_sent_behind_a_stream_is_read_without_limit(ahead: bytes) -> None:
    """The data read behind a stream is bounded, both in requests and in bytes."""
    host = Silent()
    server = await asyncio.get_running_loop().create_server(host.protocol, "127.0.0.1", 0)
    peer = await Peer.to(server.sockets[0].getsockname()[1])
    await peer.say(b"GET /stream HTTP/1.1\r\nHost: h\r\n\r\n")
    await eventually(host.is_streaming.is_set)
    [connection] = host.state.connections
    for start in range(0, len(ahead), 500):  # each read brings a few requests
        await peer.say(ahead[start : start + 500])
        await asyncio.sleep(0)
        if connection.flow.read_paused:
            break
    else:
        await peer.say(ahead * 5)
    await eventually(lambda: connection.flow.read_paused or not host.state.connections)
    assert len(connection.pipeline) <= PIPELINE_LIMIT
    held = sum(len(cycle.body) for cycle, _ in connection.pipeline)
    assert held <= AHEAD_BYTES + READ_BYTES
    peer.abort()
    connection.transport.abort()  # paused: only a write would notice
    await eventually(lambda: not host.state.connections and not host.state.tasks)
    server.close()


class Silent(Host):
    """Streams on /stream without sending anything."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = 0
        self.is_streaming = asyncio.Event()

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        if scope.get("path") != "/stream":
            await super().app(scope, receive, send)
            return
        await receive()  # its body
        await send({"type": "http.response.start", "status": 200, "headers": []})
        gone = asyncio.ensure_future(receive())
        self.is_streaming.set()
        await gone
        self.ended += 1


UPGRADE = (
    GET + b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)
CHUNK = b"5\r\nhello\r\n0\r\n\r\n"
BODIES = {
    "a length": b"Content-Length: 5\r\n\r\nhello",
    "a length without its body": b"Content-Length: 5\r\n\r\n",
    "another zero": b"Content-Length: 00\r\n\r\n",
    "chunks": b"Transfer-Encoding: chunked\r\n\r\n" + CHUNK,
}


@pytest.mark.parametrize("before", [b"", GET + b"\r\n"], ids=["first", "behind a request"])
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
async def test_a_handshake_has_a_body(host: Host, port: int, body: bytes, before: bytes) -> None:
    """The connection used to be closed without a response."""
    peer = await Peer.to(port)
    if before:
        await peer.say(before)
        await peer.head()
    await peer.say(UPGRADE + body)
    answer = await peer.rest()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.endswith(b"\r\n\r\na WebSocket handshake must not have a body\n")


async def test_a_handshake_may_declare_an_empty_body(host: Host, port: int) -> None:
    peer = await Peer.to(port)
    await peer.say(UPGRADE + b"Content-Length: 0\r\n\r\n")
    assert (await peer._reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 101 ")
    peer.close()


def post(version: bytes, *headers: bytes) -> bytes:
    return b"\r\n".join((b"POST /a HTTP/" + version, *headers, b"", CHUNK))


HOST, CHUNKED = b"Host: h", b"Transfer-Encoding: chunked"
FRAMINGS = {
    "gzip below chunked": (post(b"1.1", HOST, b"Transfer-Encoding: gzip, chunked"), 501),
    "on two lines": (post(b"1.1", HOST, b"Transfer-Encoding: gzip", CHUNKED), 501),
    "chunked twice": (post(b"1.1", HOST, b"Transfer-Encoding: chunked, chunked"), 400),
    "chunked twice on two lines": (post(b"1.1", HOST, CHUNKED, CHUNKED), 400),
    "gzip alone": (post(b"1.1", HOST, b"Transfer-Encoding: gzip"), 400),
    "identity": (post(b"1.1", HOST, b"Transfer-Encoding: identity"), 400),
    "gzip above chunked": (post(b"1.1", HOST, b"Transfer-Encoding: chunked, gzip"), 400),
    "a strange coding": (post(b"1.1", HOST, b"Transfer-Encoding: xchunked"), 400),
    "no coding": (post(b"1.1", HOST, b"Transfer-Encoding: "), 400),
    "a comma behind it": (post(b"1.1", HOST, b"Transfer-Encoding: chunked,"), 400),
    "with a length": (post(b"1.1", HOST, CHUNKED, b"Content-Length: 5"), 400),
    "HTTP/1.0 with chunks": (post(b"1.0", HOST, CHUNKED), 400),
    "HTTP/1.0 with chunks, kept alive": (
        post(b"1.0", HOST, CHUNKED, b"Connection: keep-alive"),
        400,
    ),
    "no host": (b"GET /a HTTP/1.1\r\n\r\n", 400),
    "two hosts": (GET + b"Host: i\r\n\r\n", 400),
    "one host twice": (GET + HOST + b"\r\n\r\n", 400),
    "two hosts in HTTP/1.0": (b"GET /a HTTP/1.0\r\nHost: h\r\nHost: i\r\n\r\n", 400),
    "a handshake with two hosts": (UPGRADE + b"Host: i\r\n\r\n", 400),
}


@pytest.mark.parametrize(("said", "status"), FRAMINGS.values(), ids=FRAMINGS)
async def test_a_request_is_framed_so_that_two_servers_disagree(
    host: Host, port: int, said: bytes, status: int
) -> None:
    """RFC 9112 §3.2 and §6.1: refused and closed, so what follows is not parsed as a request."""
    peer = await Peer.to(port)
    await peer.say(said + GET + b"\r\n")
    answer = await peer.rest()
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"\r\nconnection: close\r\n" in answer
    assert answer.count(b"HTTP/1.1 ") == 1
    assert not host.served


@pytest.mark.parametrize(
    "said",
    [
        post(b"1.1", HOST, CHUNKED),
        post(b"1.1", HOST, b"Transfer-Encoding: , Chunked"),
        b"GET /a HTTP/1.0\r\n\r\n",
        GET + b"\r\n",
    ],
)
async def test_correctly_framed_requests_are_answered(host: Host, port: int, said: bytes) -> None:
    peer = await Peer.to(port)
    await peer.say(said)
    await eventually(lambda: host.served == 1)
    peer.close()


async def test_each_request_of_a_connection_has_its_own_host(host: Host, port: int) -> None:
    peer = await Peer.to(port)
    await peer.say(GET + b"\r\n")
    await peer.head()
    await peer.say(GET + b"\r\n")
    await peer.head()
    await peer.say(b"GET /a HTTP/1.1\r\n\r\n")
    assert (await peer.rest()).startswith(b"HTTP/1.1 400 ")
    assert host.served == 2


LAST_CHUNK = b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0"


async def test_a_trailer_is_taken_for_a_header(host: Host, port: int) -> None:
    """RFC 9110 §6.5.1: a trailer could claim an identity after a proxy has checked the headers."""
    peer = await Peer.to(port)
    await peer.say(
        LAST_CHUNK + b"\r\nX-Forwarded-For: 192.0.2.1\r\nHost: i\r\n\r\n" + GET + b"\r\n"
    )
    await peer.head()
    await peer.head()
    peer.close()
    names = [name for scope in host.scopes for name, _ in scope["headers"]]
    assert set(names) == {b"host", b"transfer-encoding"}


@pytest.mark.parametrize(
    "said",
    [LAST_CHUNK + b"\r\nX: ", LAST_CHUNK + b";x=", LAST_CHUNK[:-1] + b"5;x="],
    ids=["a trailer", "an extension of the last chunk", "an extension of a chunk"],
)
async def test_chunk_extensions_and_trailers_are_endless(
    host: Host, port: int, said: bytes
) -> None:
    peer = await Peer.to(port)
    await peer.say(said)
    for _ in range(100):
        try:
            await peer.say(b"x" * 65536)
        except ConnectionError:
            break
    answer = await peer.rest()
    assert answer.startswith((b"HTTP/1.1 431 ", b"HTTP/1.1 400 ")) or not answer
    assert host.reached == {"request_head_bytes": 1}
    assert not host.served
