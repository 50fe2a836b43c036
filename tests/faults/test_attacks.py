"""Attacks on a running service: regression tests for past failures."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from notifier.listening import DRAIN_SECONDS, GRACEFUL_SECONDS, LINGER_SECONDS
from realtime.conf import Settings
from tests.e2e.test_launcher import Launched
from tests.support.client import Client
from tests.support.database import migrated_url
from tests.support.redis_server import RedisServer
from tests.support.service import Service

pytestmark = pytest.mark.faults
SETTINGS = Settings()

Serve = Callable[..., Service]
Attach = Callable[..., Awaitable[Client]]


async def test_clients_that_connected_during_a_suspension_are_not_rejected_for_good(
    redis_server: RedisServer, serve: Serve, attach: Attach
) -> None:
    """After a suspension or starvation of the machine, the timer ran before the sockets were read.

    Clients whose `connect` had arrived but was unread got 3502, after which an SDK never
    reconnects.
    """
    service = serve(redis_server.url)
    clients = [await attach(service, connect=False) for _ in range(20)]
    service.freeze()
    for client in clients:
        await client.tell(connect={})
    await asyncio.sleep(SETTINGS.connect_seconds + 1)  # this delay is the attack
    service.thaw()
    for client in clients:
        assert "connect" in await client.next()


def launched(folder: Path, redis: RedisServer, *command: str) -> Launched:
    """Start the service as a deployment does."""
    return Launched(
        folder,
        *command,
        REDIS_URL=redis.url,
        SECRET_KEY="s" * 50,
        NOTIFIER_API_KEY="key",
        ALLOWED_HOSTS="127.0.0.1",
        DATABASE_URL=migrated_url(),
    )


async def test_more_clients_than_the_soft_file_limit_are_served(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    """A login shell allows 1,024 open files; that many connections used to block everybody else.

    The node could not even reconnect to Redis.
    """
    limited = f"ulimit -S -n 64; exec {sys.executable} -m notifier serve"
    service = launched(tmp_path, redis_server, "bash", "-c", limited)
    try:
        url = await asyncio.to_thread(service.wait_until_live)
        address = url.replace("http", "ws") + "/connection/websocket"
        clients = [await Client.open(address) for _ in range(100)]
        await clients[-1].ask(ping={})
        for client in clients:
            await client.close()
    finally:
        await asyncio.to_thread(service.stop)


async def test_a_hanging_request_does_not_delay_shutdown(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    """Lingering, draining, and requests that then still hang have a common time limit."""
    assert LINGER_SECONDS + DRAIN_SECONDS + GRACEFUL_SECONDS < 15
    service = launched(tmp_path, redis_server, sys.executable, "-m", "notifier", "serve")
    try:
        url = await asyncio.to_thread(service.wait_until_live)
        client = await Client.open(url.replace("http", "ws") + "/connection/websocket")
        _, _, address = url.partition("//")
        _, hanging = await asyncio.open_connection(*address.split(":"))
        hanging.write(
            b"POST /api/publish HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: key\r\n"
            b"Content-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
        )
        await hanging.drain()
        service.process.terminate()
        assert (await client.closed())[0] == 3001
        left = await asyncio.to_thread(service.process.wait, LINGER_SECONDS + GRACEFUL_SECONDS + 3)
        assert left == 0
        hanging.close()
    finally:
        await asyncio.to_thread(service.stop)
