"""Our HTTP protocol class waits for nobody for ever, and keeps no more than a request needs."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from uvicorn.server import ServerState

from notifier.counting import Config
from notifier.http import HEAD_BYTES, HEADERS_LIMIT, PIPELINE_LIMIT, HttpProtocol, Waiting
from notifier.websocket import WebSocketProtocol
from tests.support.eventually import eventually
from tests.support.machine import within

GET = b"GET /a HTTP/1.1\r\nHost: h\r\n"
POST = b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n"


class Quick(HttpProtocol):
    """Seconds become tenths."""

    seconds = {Waiting.HEAD: 0.4, Waiting.BODY: 0.6}  # noqa: RUF012


class Host:
    """An app that answers when it has the body, and only when the test lets it."""

    def __init__(self) -> None:
        self.reached: Counter[str] = Counter()
        self.served = 0
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
        await self.may_answer.wait()
        self.served += 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    def protocol(self) -> HttpProtocol:
        config = Config(
            self.app,
            reached=lambda name: self.reached.update([name]),
            interface="asgi3",
            log_config=None,
            ws=WebSocketProtocol,
            timeout_keep_alive=1,
        )
        return Quick(config, self.state, {})


@pytest.fixture
async def host() -> Host:
    return Host()


@pytest.fixture
async def port(host: Host) -> AsyncIterator[int]:
    server = await asyncio.get_running_loop().create_server(host.protocol, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    host.may_answer.set()
    server.close()
    await eventually(lambda: not host.state.connections and not host.state.tasks)


class Peer:
    """A socket that says exactly what the test says."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def to(cls, port: int) -> Peer:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def say(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def drip(self, data: bytes, seconds: float = 0.05) -> None:
        """One byte after the other, until the other end has had enough."""
        for place in range(len(data)):
            if self._reader.at_eof() or self._writer.is_closing():
                return
            self._writer.write(data[place : place + 1])
            await asyncio.sleep(seconds)  # that is the attack

    def abort(self) -> None:
        """Vanish with a RST."""
        self._writer.transport.abort()

    async def rest(self, seconds: float = 5.0) -> bytes:
        """Everything until the other end closes."""
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


async def test_who_connects_and_says_nothing_is_let_go(host: Host, port: int) -> None:
    assert await (await Peer.to(port)).rest() == b""
    assert host.reached == {"request_head_seconds": 1}


@pytest.mark.parametrize("said", [GET, b"G", b"GET /a HTTP/1.1\r\nHost: h\r\nX: "])
async def test_half_a_head_is_answered_by_408(host: Host, port: int, said: bytes) -> None:
    peer = await Peer.to(port)
    await peer.say(said)
    assert (await peer.rest()).startswith(b"HTTP/1.1 408 ")
    assert host.reached == {"request_head_seconds": 1}


@pytest.mark.parametrize("said", [GET + b"X-A: b\r\n" * 50, b"\r\n" * 100])
async def test_a_head_that_drips_has_one_deadline_for_all_of_it(
    host: Host, port: int, said: bytes
) -> None:
    """Stock Daphne gives each byte a minute of its own, stock uvicorn for ever."""
    peer = await Peer.to(port)
    await asyncio.wait_for(peer.drip(said), 3)
    await peer.rest()
    assert host.reached == {"request_head_seconds": 1}


async def test_a_second_request_that_drips_has_a_deadline_too(host: Host, port: int) -> None:
    peer = await Peer.to(port)
    await peer.say(GET + b"\r\n")
    await peer.head()
    await asyncio.wait_for(peer.drip(b"\r\n" * 100), 3)
    await peer.rest()
    assert host.reached == {"request_head_seconds": 1}


async def test_a_body_that_drips_has_a_deadline(host: Host, port: int) -> None:
    peer = await Peer.to(port)
    await peer.say(POST + b"12345")
    await peer.rest()
    assert host.reached == {"request_body_seconds": 1}
    assert not host.served


async def test_between_requests_it_is_the_keep_alive_that_counts(host: Host, port: int) -> None:
    peer = await Peer.to(port)
    for _ in range(3):
        await peer.say(GET + b"\r\n")
        await peer.head()
        await asyncio.sleep(0.5)  # longer than for a head, shorter than to be kept alive
    await peer.rest()
    assert host.served == 3
    assert not host.reached


async def test_an_answer_may_take_longer_than_a_request(host: Host, port: int) -> None:
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
async def test_headers_have_a_number(host: Host, port: int, count: int) -> None:
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
async def test_a_head_has_a_size(host: Host, port: int, said: bytes) -> None:
    peer = await Peer.to(port)
    try:
        await peer.say(said)
    except ConnectionError:
        assert len(said) > 1_000_000
    answer = await peer.rest()
    assert answer.startswith(b"HTTP/1.1 431 ") or (not answer and len(said) > 1_000_000)
    assert host.reached == {"request_head_bytes": 1}
    assert not host.served


async def test_requests_that_are_sent_ahead_have_a_number(host: Host, port: int) -> None:
    host.may_answer.clear()
    peer = await Peer.to(port)
    await peer.say((GET + b"\r\n") * 5000)
    await eventually(lambda: host.reached == {"requests_ahead": 1})
    host.may_answer.set()
    await peer.rest()
    assert host.served <= PIPELINE_LIMIT + 1


async def test_a_few_requests_that_are_sent_ahead_are_answered(host: Host, port: int) -> None:
    peer = await Peer.to(port)
    await peer.say((GET + b"\r\n") * PIPELINE_LIMIT)
    for _ in range(PIPELINE_LIMIT):
        await peer.head()
    peer.close()
    assert not host.reached


async def test_what_is_no_request_is_400_without_a_line_in_the_log(
    host: Host, port: int, caplog: pytest.LogCaptureFixture
) -> None:
    peer = await Peer.to(port)
    await peer.say(b"nonsense\r\n\r\n")
    assert (await peer.rest()).startswith(b"HTTP/1.1 400 ")
    assert not caplog.records


class Streaming(Host):
    """Streams on /stream until its client has gone."""

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
async def test_a_stream_ends_with_its_client_whatever_was_sent_behind_it(behind: bytes) -> None:
    """A stream and one request behind it, and the node counted the client until its restart."""
    host = Streaming()
    server = await asyncio.get_running_loop().create_server(host.protocol, "127.0.0.1", 0)
    peer = await Peer.to(server.sockets[0].getsockname()[1])
    await peer.say(b"GET /stream HTTP/1.1\r\nHost: h\r\n\r\n" + behind)
    await eventually(lambda: host.state.tasks or host.ended)
    peer.abort()
    await eventually(lambda: host.ended == 1)
    await eventually(lambda: not host.state.connections and not host.state.tasks)
    server.close()
