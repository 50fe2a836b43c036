"""A master behind sentinels fails, or is replaced, while it is under load."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from tests.support.eventually import eventually
from tests.support.scene import FULL, Account, Scene, Serve, scene_of
from tests.support.sentinels import NAME, SentinelSet, sentinel_set

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900 if FULL else 300)]

LIVE_SECONDS = 0.5
"""From +switch-master until every client is live again."""


@dataclass
class Guarded:
    """A scene whose Redis is a master with sentinels."""

    scene: Scene
    set: SentinelSet

    @asynccontextmanager
    async def failover(self, name: str) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        """Record a fault; yield a function that waits until all clients are live at a new master.

        They must be within 0.5 s of the switch.
        """
        load = self.scene.load

        async def live() -> None:
            at = await switched()
            await load.recovered(LIVE_SECONDS)
            print(f"live {time.monotonic() - at:.2f} s after +switch-master")

        async with self.set.switching() as switched, load.fault(name, forgets=True):
            yield live

    async def settle(self) -> None:
        """Wait until the former master follows, so that the next one can fail."""
        await eventually(lambda: asyncio.to_thread(self.set.is_ready), seconds=30)


@asynccontextmanager
async def guarded_scene(serve: Serve, account: Account) -> AsyncIterator[Guarded]:
    with sentinel_set() as found:
        async with scene_of(found.master, serve, account, url=found.url) as scene:
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


@pytest.mark.parametrize("fail", [master_killed, handed_over])
async def test_failover_and_failback(
    fail: Callable[[Guarded], Awaitable[None]], serve: Serve, account: Account
) -> None:
    async with guarded_scene(serve, account) as guarded:

        async def there_and_back(scene: Scene) -> None:
            await fail(guarded)
            await guarded.settle()
            await fail(guarded)
            await guarded.settle()

        await guarded.scene.again_and_again(there_and_back)
