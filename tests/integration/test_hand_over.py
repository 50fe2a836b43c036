"""A connection whose app has handed it over: its messages go to a receiver, and no task remains."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import uvloop
import websockets
from uvicorn.config import Config
from uvicorn.server import ServerState
from websockets.frames import Close

from notifier.websocket import SLICE_BYTES, WebSocketProtocol
from tests.support.eventually import eventually
from tests.support.machine import in_time
from tests.support.raw import CLOSE, PING, TEXT, frame

READ_BYTES = 256 * 1024  # the size of asyncio's reads of a socket
PAD = "x" * 100


class Receiver:
    """Records what it receives, and takes no more than the test allows."""

    def __init__(self) -> None:
        self.taken: list[str | None] = []
        self.may_take = 1_000_000
        self.seconds = 0.0
        self.lost = 0
        self.resume: Callable[[], None] | None = None

    def receive(self, text: str | None) -> bool:
        if self.seconds:
            time.sleep(self.seconds)  # work that blocks the loop; this waits for nothing
        self.taken.append(text)
        return len(self.taken) < self.may_take

    def note_lost(self) -> None:
        self.lost += 1

    def allow(self, count: int) -> None:
        self.may_take = len(self.taken) + count
        assert self.resume is not None
        self.resume()


class Host:
    """An app that hands its connections over, when the test lets it."""

    def __init__(self) -> None:
        self.protocols: list[WebSocketProtocol] = []
        self.receiver = Receiver()
        self.going_on = asyncio.Event()
        self.going_on.set()
        self.closes_first = False
        self.hands_over = True
        self.send: Any = None
        self.state = ServerState()

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if self.closes_first:
            self.protocols[-1].transport.close()
        await send({"type": "websocket.accept"})
        await self.going_on.wait()
        if not self.hands_over:
            return
        self.send = send
        self.receiver.resume = scope["extensions"]["realtime.wire"].hand_over(self.receiver)

    def protocol(self) -> WebSocketProtocol:
        config = Config(self.app, interface="asgi3", log_config=None, ws_per_message_deflate=False)
        self.protocols.append(WebSocketProtocol(config, self.state, {}))
        return self.protocols[-1]

    @property
    def is_alone(self) -> bool:
        """Whether no task serves the connection."""
        return self.receiver.resume is not None and not self.state.tasks


@pytest.fixture
async def host() -> Host:
    return Host()


@pytest.fixture
async def address(host: Host) -> AsyncIterator[str]:
    server = await asyncio.get_running_loop().create_server(host.protocol, "127.0.0.1", 0)
    yield "ws://{}:{}".format(*server.sockets[0].getsockname())
    for protocol in host.protocols:
        await eventually(lambda protocol=protocol: protocol.disconnected)
    assert host.receiver.lost <= 1
    server.close()
    await server.wait_closed()


def connect(address: str) -> Any:
    return websockets.connect(address, compression=None)


async def test_messages_arrive_in_order_after_the_app_has_returned(
    host: Host, address: str
) -> None:
    """Frames of all sizes, alone and in groups, and text that is split into fragments."""
    words: list[str | None] = []
    async with connect(address) as client:
        await eventually(lambda: host.is_alone)
        for crowd in (1, 2, 3, 50, 1, 400, 1, 1):
            for n in range(crowd):
                word = f"{crowd} {n} " + "x" * (n * 97 % 5000)
                words.append(word)
                parts = [word[:2], word[2:3], word[3:]]
                await client.send(parts if n % 3 == 2 else word)
            await eventually(lambda: len(host.receiver.taken) == len(words))
        await client.send(b"not text")
        words.append(None)
        await eventually(lambda: len(host.receiver.taken) == len(words))
    assert host.receiver.taken == words
    await eventually(lambda: host.receiver.lost == 1)
    assert host.protocols[0].scope == {}, "nothing reads it any more"


async def test_messages_that_came_before_the_hand_over_come_first(host: Host, address: str) -> None:
    host.going_on.clear()
    words = [f"{n} {PAD}" for n in range(500)]  # more than is parsed at once
    async with connect(address) as client:
        for word in words:
            await client.send(word)
        [protocol] = host.protocols
        await eventually(lambda: protocol.read_paused)
        host.going_on.set()
        await eventually(lambda: host.is_alone)
        await client.send("last")
        await eventually(lambda: len(host.receiver.taken) == len(words) + 1)
    assert host.receiver.taken == [*words, "last"]


async def test_reading_stops_while_the_receiver_takes_no_more(host: Host, address: str) -> None:
    words = [f"{n} {PAD}" for n in range(100_000)]  # 11 MB
    receiver = host.receiver
    receiver.may_take = 10
    async with connect(address) as client:

        async def say_all() -> None:
            for word in words:
                await client.send(word)

        saying = asyncio.create_task(say_all())
        [protocol] = host.protocols
        await eventually(lambda: client.transport.get_write_buffer_size() > READ_BYTES // 8)
        assert protocol.read_paused
        assert protocol.flow is not None
        assert len(protocol.flow._waiting) <= 2 + SLICE_BYTES // len(words[0])
        assert len(receiver.taken) == 10
        receiver.allow(1)
        assert len(receiver.taken) == 11, "one more, and it rests again"
        receiver.allow(1_000_000)
        await in_time(saying, 20)
        await eventually(lambda: len(receiver.taken) == len(words), seconds=20)
    assert receiver.taken == words


async def test_a_client_with_many_frames_does_not_monopolize_the_loop(
    host: Host, address: str
) -> None:
    """A read may hold 40,000 frames; other connections get their turn after two milliseconds."""
    async with connect(address) as client:
        await eventually(lambda: host.is_alone)
        host.receiver.seconds = 0.003
        turns: dict[int, None] = {}
        for n in range(100):
            await client.send(f"{n}")
        while len(host.receiver.taken) < 100:
            turns[len(host.receiver.taken)] = None
            await asyncio.sleep(0)
        assert len(turns) > 50, "it yields after each message, as each takes longer than a slice"
    assert host.receiver.taken == [f"{n}" for n in range(100)]


async def test_a_client_that_sends_faster_than_the_receiver_takes_fills_no_memory(
    host: Host, address: str
) -> None:
    """What is read must wait at the client's end: the receiver is slow, but never says so."""
    words = [f"{n} {PAD}" for n in range(20_000)]  # 2 MB
    async with connect(address) as client:
        await eventually(lambda: host.is_alone)
        [protocol] = host.protocols
        host.receiver.seconds = 0.003  # longer than a slice, for each message

        async def say_all() -> None:
            for word in words:
                await client.send(word)

        saying = asyncio.create_task(say_all())
        largest = 0
        while len(host.receiver.taken) < 200:
            largest = max(largest, len(protocol._rest))
            await asyncio.sleep(0)
        assert SLICE_BYTES < largest <= READ_BYTES
        host.receiver.seconds = 0.0
        await in_time(saying, 20)
        await eventually(lambda: len(host.receiver.taken) == len(words), seconds=20)
    assert host.receiver.taken == words


async def test_the_end_is_told_once_however_it_comes(host: Host, address: str) -> None:
    async with connect(address) as client:
        await eventually(lambda: host.is_alone)
        await client.close(4001, "enough")
        await eventually(lambda: host.receiver.lost)
        assert client.protocol.close_rcvd == Close(4001, "enough"), "its close frame is answered"
    await eventually(lambda: host.protocols[0].disconnected)
    assert host.receiver.lost == 1


async def test_a_client_that_vanishes_is_noticed(host: Host, address: str) -> None:
    host.receiver.may_take = 1
    async with connect(address) as client:
        await eventually(lambda: host.is_alone)
        await client.send("first")
        await client.send("second")
        await eventually(lambda: host.protocols[0].read_paused)
        host.receiver.allow(0)  # it rests, and then takes what the client has sent
        host.receiver.allow(9)
        client.transport.abort()
        await eventually(lambda: host.receiver.lost)
    assert host.receiver.taken == ["first", "second"]


async def test_a_hand_over_after_the_client_has_left_tells_so(host: Host, address: str) -> None:
    host.going_on.clear()
    async with connect(address) as client:
        client.transport.abort()
        await eventually(lambda: host.protocols[0].disconnected)
        host.going_on.set()
        await eventually(lambda: host.receiver.lost)
    assert host.is_alone


async def test_a_close_frame_of_ours_is_answered_before_the_connection_ends(
    host: Host, address: str
) -> None:
    async with connect(address) as client:
        await eventually(lambda: host.is_alone)
        [protocol] = host.protocols
        await host.send({"type": "websocket.close", "code": 3001, "reason": "shutdown"})
        protocol.leave()
        await client.wait_closed()
        assert (client.close_code, client.close_reason) == (3001, "shutdown")
        assert client.protocol.close_sent == Close(3001, "shutdown"), "not cut off"
    await eventually(lambda: host.receiver.lost == 1)


async def test_leaving_without_a_close_frame_ends_the_connection(host: Host, address: str) -> None:
    async with connect(address) as client:
        await eventually(lambda: host.is_alone)
        host.protocols[0].leave()
        await client.wait_closed()
        assert client.close_code == 1006
    await eventually(lambda: host.receiver.lost == 1)


async def test_text_that_is_not_utf_8_ends_the_connection(host: Host, address: str) -> None:
    async with connect(address) as client:
        await eventually(lambda: host.is_alone)
        await client.send(b"\xff", text=True)
        await client.wait_closed()
        assert client.close_code == 1007
    assert host.receiver.lost == 1
    assert host.receiver.taken == []


async def test_a_server_that_stops_ends_its_connections(host: Host, address: str) -> None:
    async with connect(address) as client:
        await eventually(lambda: host.is_alone)
        host.protocols[0].shutdown()
        assert host.receiver.lost == 1, "even if the client does not read"
        await client.wait_closed()
        assert client.close_code == 1012


async def test_a_server_that_stops_passes_over_a_client_that_has_closed_and_reads_nothing(
    host: Host, address: str
) -> None:
    """The close frame that it would send is an error by then, which ended the whole shutdown."""
    async with connect(address) as client:
        await eventually(lambda: host.is_alone)
        [protocol] = host.protocols
        client.transport.pause_reading()
        protocol.transport.write(b"x" * 20_000_000)  # more than the buffers of a socket hold
        client.transport.write(frame(CLOSE))
        await eventually(lambda: host.receiver.lost)
        assert not protocol.disconnected, "what was written before is still in its way"
        protocol.shutdown()
        client.transport.abort()
    assert host.receiver.lost == 1


async def test_a_flood_behind_messages_that_wait_ends_the_connection(
    host: Host, address: str
) -> None:
    """It was parsed in a callback, whose exception nobody handled: the connection stayed open."""
    host.receiver.may_take = 1
    async with connect(address) as client:
        await eventually(lambda: host.is_alone)
        first = frame(TEXT, b"first") + frame(TEXT, PAD.encode()) * 100  # more than one slice
        client.transport.write(first + frame(PING, b"x") * 150 + frame(CLOSE))  # in one slice
        await eventually(lambda: host.protocols[0]._rest)
        host.receiver.allow(1_000_000)
        await eventually(lambda: host.receiver.lost)
        await eventually(lambda: host.protocols[0].disconnected)


async def test_a_connection_that_ends_while_it_is_accepted_is_no_error(
    host: Host, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    host.closes_first = True
    with pytest.raises((OSError, websockets.InvalidMessage, websockets.InvalidStatus)):
        async with connect(address):
            pass
    await eventually(lambda: host.is_alone)
    await eventually(lambda: host.receiver.lost)
    assert "without completing handshake" not in caplog.text


async def test_nothing_keeps_the_memory_of_a_connection_that_has_ended(
    host: Host, address: str
) -> None:
    gc.collect()
    gc.disable()
    try:
        async with connect(address) as client:
            await eventually(lambda: host.is_alone)
            await client.send("one")
            await eventually(lambda: host.receiver.taken)
        await eventually(lambda: host.protocols[0].disconnected)
        host.send = None
        whole = weakref.ref(host.protocols.pop())
        await eventually(lambda: whole() is None)
    finally:
        gc.enable()


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_an_app_returns_after_its_client_has_vanished(new_loop: Any) -> None:
    """The transport of uvloop refuses to write then, which was an error in a task."""
    errors: list[Any] = []

    async def vanish() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: errors.append(context))
        host = Host()
        host.going_on.clear()
        host.hands_over = False
        server = await loop.create_server(host.protocol, "127.0.0.1", 0)
        host_name, port = server.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(host_name, port)
        writer.write(
            b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        assert b" 101 " in await reader.readline()
        writer.transport.abort()
        await eventually(lambda: host.protocols[0].disconnected)
        host.going_on.set()
        await eventually(lambda: not host.state.tasks)
        gc.collect()
        server.close()
        await server.wait_closed()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(vanish())
    assert errors == []
