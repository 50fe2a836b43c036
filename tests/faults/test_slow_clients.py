"""A client that does not read costs bounded memory, gets its gap, and does not affect others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from realtime.brokers.redis import RedisBroker
from realtime.core.publication import Publication
from tests.support.client import Client
from tests.support.redis_server import RedisServer
from tests.support.service import SERVERS, Service, needs_proc

pytestmark = pytest.mark.faults

Serve = Callable[..., Service]
Attach = Callable[..., Awaitable[Client]]
SMALL = {"TEST_WINDOW_BYTES": "65536", "TEST_OUTBOX_BYTES": "131072"}
DATA = "x" * 16 * 1024
COUNT = 60  # 960 KiB: far more than window and outbox together
HEAVY = "x" * 60 * 1024
HEAVY_COUNT = 256  # 15 MiB
AT_ONCE = 2  # less than the outbox of the neighbour
SLACK_BYTES = 8 * 1024 * 1024
"""Growth of a process for other reasons; window and outbox, 192 KiB, are a small part of it."""


@pytest.fixture(params=SERVERS)
def service(request: pytest.FixtureRequest, redis_server: RedisServer, serve: Serve) -> Service:
    return serve(redis_server.url, request.param, **SMALL)


async def overflow(service: Service, channel: str, slow: Client, neighbour: Client) -> int:
    """Overflow the outbox of the slow client.

    A neighbour that reads everything shows when it is done.
    """
    start = (await slow.subscribe(channel))["offset"]
    await neighbour.subscribe(channel)
    for _ in range(COUNT):
        await asyncio.to_thread(service.publish, channel, DATA)
        assert await neighbour.data() == DATA
    return int(start)


async def account(client: Client, start: int, last: int) -> tuple[list[int], list[int]]:
    """Read until ``last``.

    Return the offsets received and missed, which together are all offsets.
    """
    received: list[int] = []
    missed: list[int] = []
    expected = start + 1
    while expected <= last:
        push = (await client.next())["push"]
        first, end = (
            (push["gap"]["from"], push["gap"]["to"])
            if "gap" in push
            else (push["pub"]["offset"],) * 2
        )
        assert first == expected, "in order, without overlap, without silence"
        (missed if "gap" in push else received).extend(range(first, end + 1))
        if "gap" in push:
            assert push["gap"]["reason"] == "slow"
        expected = end + 1
        await client.answer_pings()  # now it reads; the first pongs are late, but they arrive
    return received, missed


async def test_slow_connection_gets_a_gap_and_others_do_not(
    service: Service, attach: Attach
) -> None:
    slow, neighbour = await attach(service, answers_pings=False), await attach(service)
    start = await overflow(service, "public:slow", slow, neighbour)
    received, missed = await account(slow, start, start + COUNT)
    assert received
    assert missed
    assert "Traceback" not in service.log


async def test_latest_keeps_the_newest_publication(service: Service, attach: Attach) -> None:
    slow, neighbour = await attach(service, answers_pings=False), await attach(service)
    start = await overflow(service, "latest:slow", slow, neighbour)
    received, missed = await account(slow, start, start + COUNT)
    assert received[-1] == start + COUNT
    assert missed


async def test_the_disconnect_policy_closes_a_slow_connection_with_3008_or_aborts_it(
    service: Service, attach: Attach
) -> None:
    slow, neighbour = await attach(service, answers_pings=False), await attach(service)
    await overflow(service, "cut:slow", slow, neighbour)
    assert (await slow.closed())[0] in (3008, 1006)
    assert (await neighbour.ask(ping={}))["ping"] == {}


@needs_proc
async def test_a_client_that_does_not_read_costs_at_most_window_and_outbox(
    service: Service, redis_server: RedisServer, attach: Attach
) -> None:
    """Daphne never reports a full buffer: it would hold all 15 MiB for this one client."""
    slow, neighbour = await attach(service, answers_pings=False), await attach(service)
    start = await overflow(service, "public:heavy", slow, neighbour)
    last = start + COUNT
    before = service.resident_bytes
    broker = RedisBroker(redis_server.url)
    heavy = Publication.of("public:heavy", HEAVY)
    # In few steps: whoever leaves a ping unanswered for ten seconds is closed.
    for _ in range(HEAVY_COUNT // AT_ONCE):
        await broker.publish_many([heavy] * AT_ONCE)
        for _ in range(AT_ONCE):
            assert await neighbour.data() == HEAVY
    await broker.aclose()
    grown = service.resident_bytes - before
    assert grown < SLACK_BYTES, f"{grown / 2**20:.1f} MiB for one client"
    received, missed = await account(slow, start, last + HEAVY_COUNT)
    assert received
    assert len(missed) > HEAVY_COUNT - 20


async def test_a_client_that_answers_no_ping_is_closed_with_3012(
    redis_server: RedisServer, serve: Serve, attach: Attach
) -> None:
    service = serve(redis_server.url, TEST_PING_SECONDS="1")
    client, neighbour = await attach(service, answers_pings=False), await attach(service)
    reading = asyncio.create_task(neighbour.closed(seconds=30))
    assert (await client.closed(seconds=20))[0] == 3012
    assert neighbour.pings >= 8
    assert not reading.done()
    reading.cancel()


async def test_a_client_that_never_connects_is_closed_with_3502(
    redis_server: RedisServer, serve: Serve, attach: Attach
) -> None:
    service = serve(redis_server.url)
    client = await attach(service, connect=False)
    assert (await client.closed(seconds=8))[0] == 3502
