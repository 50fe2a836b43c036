"""A master behind sentinels fails, or is replaced, while it is under load."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.eventually import eventually
from tests.support.machine import allowed
from tests.support.scene import FULL, SOMETIMES, Account, Scene, Serve, scene_of, told_nothing
from tests.support.sentinels import NAME, Sentinel, SentinelSet, sentinel_set

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900 if FULL else 300)]

LIVE_SECONDS = 0.5
"""From +switch-master until every client is live again."""


@dataclass
class Guarded:
    """A scene whose Redis is a master with sentinels."""

    scene: Scene
    set: SentinelSet
    switches: int = 0
    """How often sentinels had switched when the last fault ended."""

    @asynccontextmanager
    async def failover(self, name: str) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        """Record a fault; yield a function that waits until all clients are live at a new master.

        They must be within 0.5 s of the switch.
        """
        load = self.scene.load

        async def live() -> None:
            at = await switched()
            await load.told()  # a node that has not noticed the switch is live, too
            await load.recovered()
            took = time.monotonic() - at
            print(f"live {took:.2f} s after +switch-master")
            assert took <= allowed(LIVE_SECONDS, at)

        async with self.set.switching() as switched, load.fault(name, forgets=True):
            yield live
        self.switches = await asyncio.to_thread(self.set.switches)

    async def settle(self) -> None:
        """Wait until the former master follows, so that the next one can fail.

        On a busy machine, sentinels may return to it before: then the fault ends only now.
        """
        await eventually(lambda: asyncio.to_thread(self.set.is_ready), seconds=30)
        if await asyncio.to_thread(self.set.switches) != self.switches:
            load = self.scene.load
            await load.recovered()
            load.ledger.faults[-1].ended = time.monotonic()


@asynccontextmanager
async def guarded_scene(serve: Serve, account: Account, **options: Any) -> AsyncIterator[Guarded]:
    with sentinel_set() as found:
        async with scene_of(found.master, serve, account, url=found.url, **options) as scene:
            yield Guarded(scene, found)


async def master_killed(guarded: Guarded) -> None:
    master = guarded.set.master
    async with guarded.failover("the master is killed") as switched:
        await asyncio.to_thread(master.kill)
        await switched()
    await asyncio.to_thread(master.start)


async def handed_over(guarded: Guarded) -> None:
    """The former master keeps its clients, and accepts their writes for some more seconds."""
    async with guarded.failover("SENTINEL FAILOVER") as switched:
        guarded.set.sentinels[0].ask("SENTINEL", "FAILOVER", NAME)
        await switched()


async def master_frozen(guarded: Guarded) -> None:
    """When it wakes up, it still believes to be the master, and carries out what it was sent."""
    master = guarded.set.master
    async with guarded.failover("the master is frozen") as switched:
        master.freeze()
        await switched()
    master.thaw()


@pytest.mark.parametrize("fail", [master_killed, master_frozen, handed_over])
async def test_failover_and_failback(
    fail: Callable[[Guarded], Awaitable[None]], serve: Serve, account: Account
) -> None:
    async with guarded_scene(serve, account, runs=SOMETIMES) as guarded:

        async def there_and_back(scene: Scene) -> None:
            await fail(guarded)
            await guarded.settle()
            await fail(guarded)
            await guarded.settle()

        await guarded.scene.again_and_again(there_and_back, SOMETIMES)


@pytest.mark.parametrize("away", [Sentinel.kill, Sentinel.freeze])
async def test_one_sentinel_of_three_may_be_away(
    away: Callable[[Sentinel], None], serve: Serve, account: Account
) -> None:
    async with guarded_scene(serve, account, runs=1) as guarded:
        first, *_ = guarded.set.sentinels
        away(first)
        await guarded.scene.load.run(1)
        guarded.set.sentinels.remove(first)
        try:
            await master_killed(guarded)
        finally:
            guarded.set.sentinels.append(first)


@pytest.mark.parametrize("away", [Sentinel.kill, Sentinel.freeze])
async def test_without_sentinels_clients_notice_nothing(
    away: Callable[[Sentinel], None], serve: Serve, account: Account
) -> None:
    async with guarded_scene(serve, account, runs=1) as guarded:
        for each in guarded.set.sentinels:
            away(each)
        await guarded.scene.load.run(4)
        told_nothing(guarded.scene.load.listeners)


async def test_a_sentinel_that_was_cut_off_misleads_no_node(serve: Serve, account: Account) -> None:
    """It names the former master, for up to two seconds, and that one still accepts writes."""
    async with guarded_scene(serve, account, runs=1) as guarded:
        first, *others = guarded.set.sentinels
        first.freeze()
        guarded.set.sentinels.remove(first)
        try:
            async with guarded.failover("SENTINEL FAILOVER") as switched:
                others[0].ask("SENTINEL", "FAILOVER", NAME)
                await switched()
            first.thaw()
            load = guarded.scene.load
            await load.run(3)
            live_again = load.ledger.faults[-1].ended
            assert not any(each.was_away_since(live_again) for each in load.listeners)
        finally:
            guarded.set.sentinels.append(first)
