"""Presence while nodes and Redis fail: no ghost member stays for longer than 10 seconds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.support.client import Client
from tests.support.eventually import eventually
from tests.support.machine import allowed, within
from tests.support.redis_server import RedisServer
from tests.support.service import Service

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

Attach = Callable[..., Awaitable[Client]]
Serve = Callable[..., Service]
GHOST_SECONDS = 10.0
ROOM = "chat:lobby"


async def sitting(attach: Attach, service: Service) -> Client:
    client = await attach(service)
    await client.ask(subscribe={"channel": ROOM, "join_leave": True})
    return client


async def numbers(client: Client) -> tuple[int, int]:
    reply = await client.ask(presence_stats={"channel": ROOM})
    stats = reply.get("presence_stats", {})
    return stats.get("num_clients", -1), stats.get("num_users", -1)


async def names(client: Client) -> set[str]:
    reply = await client.ask(presence={"channel": ROOM})
    return set(reply.get("presence", {}).get("presence", ()))


async def told(client: Client, kind: str, count: int, seconds: float) -> list[dict[str, Any]]:
    """Wait until this many joins or leaves were announced by name."""
    found: list[dict[str, Any]] = []
    async with within(seconds):
        while len(found) < count:
            push = (await client.next(seconds)).get("push", {})
            found += [push[kind]] if kind in push else []
    return found


async def test_a_killed_node_leaves_no_ghosts(
    own_redis: RedisServer, serve: Serve, attach: Attach
) -> None:
    killed, other = [await asyncio.to_thread(serve, own_redis.url) for _ in range(2)]
    witness = await sitting(attach, other)
    for _ in range(20):
        await sitting(attach, killed)
    await eventually(lambda: is_counted(witness, 21))
    killed.kill()
    killed_at = time.monotonic()
    left = await told(witness, "leave", 20, GHOST_SECONDS)
    assert time.monotonic() - killed_at < allowed(GHOST_SECONDS, killed_at)
    assert len({leave["info"]["client"] for leave in left}) == 20
    assert await numbers(witness) == (1, 1)
    assert len(await names(witness)) == 1


async def is_counted(client: Client, clients: int) -> bool:
    return (await numbers(client))[0] == clients and len(await names(client)) == clients


async def test_members_of_a_frozen_node_leave_and_rejoin(
    own_redis: RedisServer, serve: Serve, attach: Attach
) -> None:
    frozen, other = [await asyncio.to_thread(serve, own_redis.url) for _ in range(2)]
    witness = await sitting(attach, other)
    await sitting(attach, frozen)
    await told(witness, "join", 2, 5)
    frozen.freeze()
    try:
        await told(witness, "leave", 1, GHOST_SECONDS)
    finally:
        frozen.thaw()
    await told(witness, "join", 1, GHOST_SECONDS)
    assert await numbers(witness) == (2, 1)


@pytest.mark.parametrize("fault", ["killed", "cut"])
async def test_members_remain_after_an_outage_and_clients_are_told_to_refetch(
    own_redis: RedisServer, serve: Serve, attach: Attach, fault: str
) -> None:
    nodes = [await asyncio.to_thread(serve, own_redis.url) for _ in range(2)]
    witness, *others = [await sitting(attach, node) for node in (*nodes, *nodes)]
    await eventually(lambda: is_counted(witness, 4))
    if fault == "killed":
        await asyncio.to_thread(own_redis.kill)
        gone = others.pop()  # in the meantime, when it cannot be recorded
        await gone.close()
        await asyncio.to_thread(own_redis.start)
    else:
        await asyncio.to_thread(own_redis.cut_subscribers)
        await others.pop().close()
    await eventually(lambda: asyncio.to_thread(nodes[0].is_live))
    await eventually(lambda: is_counted(witness, 3), seconds=GHOST_SECONDS)
    for client in (witness, *others):
        await told_to_look(client)


async def told_to_look(client: Client) -> None:
    """Wait for the push that says that the number of joins and leaves is unknown."""
    async with within(GHOST_SECONDS):
        while True:
            push = (await client.next()).get("push", {})
            if push.get("presence", {"untold": 0})["untold"] is None:
                return
