"""The shutdown of a worker: not ready, lingering, draining, stopped."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from notifier.leaving import LeavingNotice
from notifier.listening import listening_socket
from notifier.server import Server, server_config
from realtime.core.limits import Limits, Rate
from tests.support.machine import within


async def app(scope, receive, send):
    """Answer each request with 204."""
    if scope["type"] == "lifespan":
        while True:
            event = (await receive())["type"]
            await send({"type": f"{event}.complete"})
            if event == "lifespan.shutdown":
                return
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


@dataclass
class Leaving:
    """Records the server's calls of the app, and holds the drain until the test releases it."""

    server: Server = None  # type: ignore[assignment]
    address: tuple[str, int] = ("", 0)
    standing_down: asyncio.Event = field(default_factory=asyncio.Event)
    draining: asyncio.Event = field(default_factory=asyncio.Event)
    drained: asyncio.Event = field(default_factory=asyncio.Event)

    async def drain(self, seconds: float) -> None:
        assert seconds > 0
        self.draining.set()
        await self.drained.wait()

    async def answer(self) -> bytes:
        reader, writer = await asyncio.open_connection(*self.address)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        line = await reader.readline()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return line


LIMITS = Limits(
    connections=100,
    connections_per_user=0,
    connections_per_address=0,
    channels_per_connection=1,
    commands=Rate(1, 1),
    publications=Rate(1, 1),
    connect_seconds=1,
)


@contextlib.asynccontextmanager
async def running(linger_seconds: float) -> AsyncIterator[Leaving]:
    leaving = Leaving()
    listener = listening_socket("127.0.0.1", 0)
    leaving.address = listener.getsockname()
    leaving.server = Server(
        server_config(app, lambda name: None, LIMITS),
        stand_down=leaving.standing_down.set,
        drain=leaving.drain,
        linger_seconds=linger_seconds,
    )
    task = asyncio.create_task(leaving.server.serve(sockets=[listener]))
    try:
        assert b"204" in await leaving.answer()
        yield leaving
    finally:
        leaving.drained.set()
        leaving.server.should_exit = True
        await task


async def test_a_lingering_worker_is_not_ready_but_still_answers():
    async with running(linger_seconds=0.5) as leaving:
        leaving.server.handle_exit(signal.SIGTERM, None)
        await leaving.standing_down.wait()
        assert b"204" in await leaving.answer()
        assert not leaving.draining.is_set()


async def test_a_stopping_worker_is_alive_and_not_ready():
    notice = LeavingNotice(app)
    assert await status(notice, "/readyz") == 204
    notice.leave()
    assert await status(notice, "/readyz") == 503
    assert await status(notice, "/livez") == 204


async def test_a_stopping_worker_closes_each_connection_after_its_response():
    notice = LeavingNotice(app)
    assert await answered(notice, "/api/publish") == []
    notice.leave()
    assert await answered(notice, "/api/publish") == [(b"connection", b"close")]


async def status(application, path: str) -> int:
    return (await start(application, path))["status"]


async def answered(application, path: str) -> list[tuple[bytes, bytes]]:
    return (await start(application, path))["headers"]


async def start(application, path: str):
    sent = []

    async def send(message):
        sent.append(message)

    await application({"type": "http", "path": path}, None, send)
    return sent[0]


async def test_a_draining_worker_accepts_no_new_clients():
    async with running(linger_seconds=0.0) as leaving:
        leaving.server.handle_exit(signal.SIGTERM, None)
        await leaving.draining.wait()
        with pytest.raises(OSError, match="Connect call failed"):
            await leaving.answer()


async def test_a_client_that_comes_when_the_port_closes_is_refused_and_not_reset():
    """A busy loop once left it in the queue of a socket that was then closed: its request was lost.

    A client that is refused knows that nothing has happened, and tries the next node.
    """
    linger_seconds = 0.2
    found: list[int] = []

    def come() -> None:
        with socket.socket() as client:
            found.append(client.connect_ex(leaving.address))

    async with running(linger_seconds) as leaving:
        loop = asyncio.get_running_loop()
        due = loop.time() + linger_seconds
        leaving.server.should_exit = True
        await leaving.standing_down.wait()
        # The loop is busy when the port is due, and then runs both timers one after the other.
        loop.call_at(due + 0.5, come)
        time.sleep(max(0.0, due + 0.6 - loop.time()))  # noqa: ASYNC251 - keeps the loop busy
        await leaving.draining.wait()
        leaving.drained.set()
    assert found == [errno.ECONNREFUSED]


REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def test_a_client_that_came_before_the_port_closed_is_answered():
    """A busy loop has not accepted it when the port is due: closing would reset it."""
    linger_seconds = 0.2
    with socket.socket() as client:

        def come() -> None:
            client.connect(leaving.address)
            client.send(REQUEST)
            client.setblocking(False)

        async with running(linger_seconds) as leaving:
            loop = asyncio.get_running_loop()
            due = loop.time() + linger_seconds
            leaving.server.should_exit = True
            # Both timers run one after the other, before the loop accepts anything.
            loop.call_at(due - 0.1, come)
            await leaving.standing_down.wait()
            time.sleep(max(0.0, due + 0.6 - loop.time()))  # noqa: ASYNC251 - keeps the loop busy
            await leaving.draining.wait()
            leaving.drained.set()
            async with within(20):
                assert b" 204 " in await loop.sock_recv(client, 1000)


@pytest.mark.parametrize("is_new", [True, False])
async def test_a_request_that_arrives_as_the_worker_stops_is_answered(is_new):
    """Nobody has read it when the drained worker closes its idle connections."""
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        async with running(linger_seconds=0.0) as leaving:
            client.setblocking(False)
            await loop.sock_connect(client, leaving.address)
            if not is_new:
                await loop.sock_sendall(client, REQUEST)
                assert b" 204 " in await loop.sock_recv(client, 1000)
            leaving.server.should_exit = True
            await leaving.draining.wait()
            [protocol] = leaving.server.server_state.connections
            client.send(REQUEST)
            protocol.shutdown()
            async with within(20):
                assert b" 204 " in await loop.sock_recv(client, 1000)


async def test_a_stopping_worker_does_not_wait_for_a_silent_connection():
    with socket.socket() as client:
        client.setblocking(False)
        async with running(linger_seconds=0.0) as leaving:
            await asyncio.get_running_loop().sock_connect(client, leaving.address)
        assert not leaving.server.server_state.connections


async def test_a_worker_without_a_launcher_does_not_linger():
    async with running(linger_seconds=60.0) as leaving:
        leaving.server.leave_at_once()
        await leaving.draining.wait()


def test_the_transport_limit_exceeds_the_protocol_limit():
    config = server_config(app, lambda name: None, LIMITS)
    assert config.first_frame_bytes == 128 * 1024
    assert config.ws_max_size == 528 * 1024
    assert config.ws_ping_interval is None
    assert not config.ws_per_message_deflate


def test_a_second_signal_stops_the_worker_at_once(monkeypatch):
    codes: list[int] = []
    monkeypatch.setattr("notifier.server.os._exit", codes.append)
    server = Server(
        server_config(app, lambda name: None, LIMITS), stand_down=lambda: None, drain=asyncio.sleep
    )
    server.handle_exit(signal.SIGTERM, None)
    assert codes == []
    server.handle_exit(signal.SIGTERM, None)
    assert codes == [1]
