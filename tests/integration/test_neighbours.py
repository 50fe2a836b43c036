"""Two services with one prefix on two databases of one Redis receive a warning."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from realtime import wiring
from realtime.brokers.redis import RedisBroker
from realtime.core.namespaces import Namespaces
from realtime.delivery import announcer
from realtime.delivery.hub import Hub
from realtime.http.health import readyz
from realtime.wiring import Node
from tests.support.eventually import eventually
from tests.support.redis_server import RedisServer

Open = Callable[[int], Hub]
MESSAGE = "another service"


@pytest.fixture
async def open_hub(
    redis_server: RedisServer, wired: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Open]:
    monkeypatch.setattr(announcer, "ANNOUNCE_SECONDS", 0.05)
    opened: list[tuple[Hub, RedisBroker]] = []

    def open_one(database: int) -> Hub:
        broker = RedisBroker(f"{redis_server.url}?db={database}", prefix=wired)
        hub = Hub(broker, Namespaces({}), _no_publish, limits=wiring.limits())
        opened.append((hub, broker))
        hub.start()
        return hub

    yield open_one
    for hub, broker in opened:
        await hub.stop()
        await broker.aclose()


async def _no_publish(*_: Any) -> Any:
    raise AssertionError("nobody publishes here")


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if MESSAGE in record.getMessage()]


async def test_two_services_on_one_redis_are_warned_once_about_each_other(
    open_hub: Open, caplog: pytest.LogCaptureFixture
) -> None:
    # Redis, Pub/Sub, database and scoping: pub/sub has no databases. hagsteel/swampdragon#46 and
    # NodeBB/NodeBB#5639 report it.
    first, second = open_hub(0), open_hub(1)
    await eventually(lambda: first.neighbours.others and second.neighbours.others)
    assert first.neighbours.others == {second.neighbours.own}
    said = errors(caplog)
    await announced(first, 5)
    assert errors(caplog) == said
    assert len(said) == 2
    assert all("REALTIME_REDIS_PREFIX" in text for text in said)
    assert {record.levelno for record in caplog.records if MESSAGE in record.msg} == {logging.ERROR}


async def test_nodes_of_one_service_are_not_neighbours_after_a_flush(
    open_hub: Open, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = open_hub(0), open_hub(0)
    await eventually(lambda: first.neighbours.own and second.neighbours.own)
    before = first.neighbours.own
    with redis_server.client() as client:
        client.flushall()
    await eventually(lambda: first.neighbours.own != before)
    for hub in (first, second):
        await announced(hub, 5)
    assert first.neighbours.own == second.neighbours.own
    assert not errors(caplog)


async def test_readyz_warns_of_another_service(node: Node) -> None:
    node.hub.start()
    await eventually(lambda: node.hub.live)
    assert b"warning" not in readyz().body
    node.hub.neighbours.others.add("0123456789abcdef")
    assert b"another service" in readyz().body


async def announced(hub: Hub, times: int) -> None:
    """Wait until the hub has announced its service this many times."""
    until = hub.neighbours._announced + times
    await eventually(lambda: hub.neighbours._announced >= until)
