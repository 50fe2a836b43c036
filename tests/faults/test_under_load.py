"""Every fault under load: nobody is cut, nothing is lost in silence, and the ledger proves it.

In the size that fits `make test`; `make test-faults` runs it with 500 clients and 500 publications
a second, and more often (NOTIFIER_FAULTS=full).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.support.load import Load
from tests.support.redis_server import RedisServer
from tests.support.service import Service

pytestmark = pytest.mark.faults

FULL = os.environ.get("NOTIFIER_FAULTS") == "full"
SIZE: dict[str, Any] = (
    {"clients": 500, "per_second": 500, "channels": 50}
    if FULL
    else {"clients": 60, "per_second": 120, "channels": 12}
)
TIMES = 20 if FULL else 2
Serve = Callable[..., Service]
Break = Callable[[Load, RedisServer], Awaitable[None]]


async def restarted(load: Load, redis: RedisServer) -> None:
    async with load.fault("Redis killed and restarted", ends_epochs=True):
        await asyncio.to_thread(redis.kill)
        await load.run(0.3)
        await asyncio.to_thread(redis.start)


async def frozen(load: Load, redis: RedisServer) -> None:
    async with load.fault("Redis stopped for 1.3 s"):
        redis.freeze()
        await load.run(1.3)
        redis.thaw()


async def cut(load: Load, redis: RedisServer) -> None:
    async with load.fault("subscribers cut"):
        await asyncio.to_thread(redis.cut_subscribers)


FAULTS = [restarted, frozen, cut]


@pytest.mark.parametrize("break_it", FAULTS, ids=lambda fault: fault.__name__)
async def test_nothing_is_lost_in_silence(
    break_it: Break, own_redis: RedisServer, serve: Serve
) -> None:
    service = serve(own_redis.url, "framed")
    async with Load([service], **SIZE) as load:
        await load.run(0.5)
        for _ in range(TIMES):
            await break_it(load, own_redis)
            await load.recovered()
            await load.run(0.5)
        await load.balance()
    print(load.ledger.summary(), dict(load.statuses))
    assert load.verdict() == []
    assert not [each for each in load.listeners if each.closes]
