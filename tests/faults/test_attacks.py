"""Attacks on a whole service: what was once broken, each with its story."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from realtime.heartbeat import STALE_SECONDS
from tests.support.client import Client
from tests.support.redis_server import RedisServer
from tests.support.service import Service

pytestmark = pytest.mark.faults

Serve = Callable[..., Service]
Attach = Callable[..., Awaitable[Client]]


async def test_who_introduced_himself_while_the_node_was_stopped_is_not_sent_away_for_good(
    redis_server: RedisServer, serve: Serve, attach: Attach
) -> None:
    """A machine that was suspended or starved came back, and the timer was faster than the sockets.

    Clients whose `connect` lay there unread got 3502, after which an SDK never returns.
    """
    service = serve(redis_server.url)
    clients = [await attach(service, connect=False) for _ in range(20)]
    service.freeze()
    for client in clients:
        await client.tell(connect={})
    await asyncio.sleep(STALE_SECONDS + 1)  # no condition to wait for: the time is the attack
    service.thaw()
    for client in clients:
        assert "connect" in await client.next()
