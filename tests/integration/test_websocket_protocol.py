"""Our WebSocket protocol class reads no more than the app takes, and loses nothing."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
import websockets
from uvicorn.config import Config
from uvicorn.server import ServerState

from notifier.event_queue import EventQueue
from notifier.websocket import SLICE_BYTES, WebSocketProtocol
from tests.support.client import Client
from tests.support.eventually import eventually
from tests.support.machine import in_time, within
from tests.support.redis_server import RedisServer
from tests.support.service import Service, needs_proc

READ_BYTES = 256 * 1024  # the size of asyncio's reads of a socket
PAD = "x" * 100


class Host:
    """An app that takes client messages only when the test allows it."""

    def __init__(self) -> None:
        self.protocols: list[WebSocketProtocol] = []
        self.taken: list[Any] = []
        self.taking = asyncio.Event()
        self.close_code: int | None = None

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await self.taking.wait()
        if self.close_code is not None:
            await send({"type": "websocket.close", "code": self.close_code})
            return
        while (message := await receive())["type"] == "websocket.receive":
            self.taken.append(message.get("text"))

    def protocol(self) -> WebSocketProtocol:
        config = Config(self.app, interface="asgi3", log_config=None, ws_per_message_deflate=False)
        self.protocols.append(WebSocketProtocol(config, ServerState(), {}))
        return self.protocols[-1]


@pytest.fixture
async def host() -> Host:
    return Host()


@pytest.fixture
async def address(host: Host) -> AsyncIterator[tuple[str, int]]:
    server = await asyncio.get_running_loop().create_server(host.protocol, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()
    host.taking.set()
    for protocol in host.protocols:
        await eventually(lambda protocol=protocol: protocol.disconnected)
    server.close()
    await server.wait_closed()


async def test_the_protocol_stops_reading_when_the_app_does(
    host: Host, address: tuple[str, int]
) -> None:
    """At most one read of the socket is buffered; the rest waits at the client's end."""
    words = [f"{n} {PAD}" for n in range(100_000)]  # 11 MB
    async with websockets.connect("ws://{}:{}".format(*address), compression=None) as client:

        async def say_all() -> None:
            for word in words:
                await client.send(word)

        saying = asyncio.create_task(say_all())
        [protocol] = host.protocols
        await eventually(lambda: client.transport.get_write_buffer_size() > READ_BYTES // 8)
        assert protocol.read_paused
        assert 1 < protocol.queue.qsize() <= 2 + SLICE_BYTES // len(words[0])
        assert not saying.done()
        host.taking.set()
        await in_time(saying, 20)
        await eventually(lambda: len(host.taken) == len(words), seconds=20)
    assert host.taken == words


async def test_reading_resumes_when_the_app_has_taken_everything(
    host: Host, address: tuple[str, int]
) -> None:
    """Frames of all sizes, alone and in groups, and text that is split into fragments."""
    host.taking.set()
    words: list[str] = []
    async with websockets.connect("ws://{}:{}".format(*address), compression=None) as client:
        for crowd in (1, 2, 3, 50, 1, 400, 1, 1):
            for n in range(crowd):
                words.append(f"{crowd} {n} " + "x" * (n * 97 % 5000))
                if n % 3 == 2:
                    await client.send([words[-1][:2], words[-1][2:3], words[-1][3:]])
                else:
                    await client.send(words[-1])
            await eventually(lambda: len(host.taken) == len(words))
    assert host.taken == words


async def test_the_queue_keeps_the_order_and_a_cancelled_receive_loses_no_event() -> None:
    queue = EventQueue()
    waiting = asyncio.create_task(queue.get())
    await asyncio.sleep(0)  # it waits now
    with pytest.raises(RuntimeError, match="another task is already waiting"):
        await queue.get()
    queue.put_nowait({"type": "websocket.connect"})
    waiting.cancel()  # it was woken, and has not run yet
    queue.put_nowait({"type": "websocket.receive", "text": "1"})
    await asyncio.gather(waiting, return_exceptions=True)
    assert queue.qsize() == 2
    assert [(await queue.get())["type"] for _ in range(2)] == [
        "websocket.connect",
        "websocket.receive",
    ]
    assert queue.empty()


async def test_an_accepted_connection_keeps_one_copy_of_its_headers(
    host: Host, address: tuple[str, int]
) -> None:
    async with websockets.connect("ws://{}:{}".format(*address)) as client:
        assert client.response is not None
        assert client.response.headers["Upgrade"] == "websocket"
        [protocol] = host.protocols
        await eventually(lambda: not protocol.request.headers)
        assert not protocol.response.headers
        names = {name.lower() for name, _ in protocol.scope["headers"]}
        assert {b"host", b"upgrade", b"sec-websocket-key"} <= names
        host.taking.set()


def frame(opcode: int, payload: bytes) -> bytes:
    """Return a client's frame, masked with zeros."""
    return bytes([0x80 | opcode, 0x80 | len(payload), 0, 0, 0, 0]) + payload


async def test_a_closing_connection_still_reads_the_close_frame_of_the_client(
    host: Host, address: tuple[str, int]
) -> None:
    """Otherwise messages that the app never takes would delay the close by ten seconds."""
    host.close_code = 3500
    reader, writer = await asyncio.open_connection(*address)
    writer.write(
        b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    await reader.readuntil(b"\r\n\r\n")
    writer.write(frame(1, b"one") + frame(1, b"two") + frame(1, b"three"))
    [protocol] = host.protocols
    await eventually(lambda: protocol.queue.qsize() == 3)
    host.taking.set()
    assert await reader.readexactly(4) == b"\x88\x02" + (3500).to_bytes(2)
    writer.write(frame(1, b"four"))
    for _ in range(20):  # turns of the loop in which the server reads it, apart from what follows
        await asyncio.sleep(0)
    writer.write(frame(8, (3500).to_bytes(2)))
    async with within(2):
        assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


SAID = "y" * 60 * 1024
COUNT = 500  # 30 MiB


@needs_proc
async def test_reading_from_a_publisher_is_bounded_while_redis_is_frozen(
    own_redis: RedisServer,
    serve: Callable[..., Service],
    attach: Callable[..., Awaitable[Client]],
) -> None:
    # each counts as four
    many = {f"TEST_{name}_BURST": str(5 * COUNT) for name in ("COMMANDS", "PUBLICATIONS")}
    service = serve(own_redis.url, "framed", **many)
    client = await attach(service)
    await client.subscribe("chat:room")
    before = service.resident_bytes
    own_redis.freeze()

    async def say_all() -> list[int]:
        return [
            await client.tell(publish={"channel": "chat:room", "data": f"{n} {SAID}"})
            for n in range(COUNT)
        ]

    saying = asyncio.create_task(say_all())
    # After a second the first publish is given up; by then, everything that can be sent has been
    # sent.
    refused = await client.next()
    assert refused["error"]["temporary"]
    assert not saying.done()
    assert service.resident_bytes - before < 8 * 1024 * 1024
    own_redis.thaw()
    answered, refusals, offsets = [refused["id"]], 1, []
    while len(answered) < COUNT or not saying.done():
        message = await client.next()
        if "id" in message:
            answered.append(message["id"])
            refusals += "error" in message
        elif "pub" in message["push"]:
            offsets.append(message["push"]["pub"]["offset"])
        elif "gap" in message["push"]:  # 30 MiB at once are too much for any client
            gap = message["push"]["gap"]
            offsets += range(gap["from"], gap["to"] + 1)
    assert answered == await saying
    assert refusals < 10, "only requests sent while Redis was frozen are refused"
    assert offsets == list(range(1, len(offsets) + 1))
    await client.ask(publish={"channel": "chat:room", "data": "still here"})


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("close_code", [None, 4000], ids=["by the client", "by the app"])
async def test_short_lived_clients_fill_memory_until_collection(
    host: Host, address: tuple[str, int], close_code: int | None
) -> None:
    """Full collections are rare: 2,500 clients that kept reconnecting left 150 MiB behind."""
    host.close_code = close_code
    client = await websockets.connect("ws://{}:{}".format(*address), compression=None)
    protocol = weakref.ref(host.protocols.pop())
    host.taking.set()
    if close_code is None:
        client.transport.close()
    await eventually(lambda: protocol() is None)
