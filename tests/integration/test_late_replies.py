"""A master that was frozen carries out what waits in its sockets, although another one has taken
its place. Its answers then do not prove that anything was published.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest

from realtime.brokers.cluster.blocking import SyncClusterBroker
from realtime.brokers.cluster.broker import ClusterBroker
from realtime.brokers.redis import RedisBroker
from realtime.brokers.redis_sync import SyncRedisBroker
from realtime.core.partitions import partition_of
from realtime.core.publication import Publication, Receipt
from realtime.errors import OutcomeUnknown
from tests.support.eventually import eventually, eventually_sync
from tests.support.redis_cluster import cluster_set
from tests.support.redis_server import RedisServer
from tests.support.sentinels import sentinel_set

PATIENCE_SECONDS = 40.0
CHANNEL = "chat:lobby"
Publish = Callable[[Publication], Awaitable[Receipt]]


class Replaceable(NamedTuple):
    """A master that another one replaces when it is frozen."""

    url: str
    master: RedisServer
    is_replaced: Callable[[], bool]


@contextmanager
def behind_sentinels() -> Iterator[Replaceable]:
    with sentinel_set() as found:
        master = found.master
        yield Replaceable(found.url, master, lambda: found.have_left(master))


@contextmanager
def in_a_cluster() -> Iterator[Replaceable]:
    with cluster_set(3, 3) as found:
        slot = partition_of(CHANNEL).slot
        master = found.owner_of(slot)
        assert master is not None
        yield Replaceable(found.url, master, lambda: found.owner_of(slot) not in (None, master))


def of_loop(replaceable: Replaceable) -> tuple[Publish, Callable[[], Awaitable[None]]]:
    kind = ClusterBroker if "cluster" in replaceable.url else RedisBroker
    broker = kind(replaceable.url, prefix="late", deadline_seconds=PATIENCE_SECONDS)
    return broker.publish, broker.aclose


def of_thread(replaceable: Replaceable) -> tuple[Publish, Callable[[], Awaitable[None]]]:
    kind = SyncClusterBroker if "cluster" in replaceable.url else SyncRedisBroker
    broker = kind(replaceable.url, prefix="late", deadline_seconds=PATIENCE_SECONDS)

    async def publish(publication: Publication) -> Receipt:
        return await asyncio.to_thread(broker.publish, publication)

    async def close() -> None:
        broker.close()

    return publish, close


@pytest.mark.parametrize("make", [of_loop, of_thread])
@pytest.mark.parametrize("start", [behind_sentinels, in_a_cluster])
async def test_a_woken_master_answers_what_it_was_asked_before(start, make) -> None:
    with start() as replaceable:
        publish, close = make(replaceable)
        try:
            # On a busy machine, asking the sentinels may take longer than it has time for.
            await eventually(lambda: publish(Publication.of(CHANNEL, 1)))
            replaceable.master.freeze()
            late = asyncio.create_task(publish(Publication.of(CHANNEL, 2)))
            await asyncio.to_thread(eventually_sync, replaceable.is_replaced, 20)
            assert not late.done()
            replaceable.master.thaw()
            with pytest.raises(OutcomeUnknown, match="another one was the master"):
                await late
            receipt = await publish(Publication.of(CHANNEL, 3))
            assert receipt.offset == 1
        finally:
            await close()


async def test_a_slow_master_is_believed() -> None:
    """It was frozen for less than a failover takes."""
    with behind_sentinels() as replaceable:
        publish, close = of_loop(replaceable)
        try:
            # On a busy machine, asking the sentinels may take longer than it has time for.
            await eventually(lambda: publish(Publication.of(CHANNEL, 1)))
            replaceable.master.freeze()
            late = asyncio.create_task(publish(Publication.of(CHANNEL, 2)))
            await asyncio.sleep(0.6)  # it is slow, which is what is tested
            replaceable.master.thaw()
            assert (await late).offset == 2
        finally:
            await close()
