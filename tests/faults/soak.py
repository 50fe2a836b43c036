"""Half an hour of load with a fault every ten seconds: resources are released after each.

It takes too long for `make test`; `make soak` runs it. SOAK_MINUTES sets its duration.
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import time
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from tests.faults.test_under_load import FAULTS
from tests.support.lean_client import LeanClient
from tests.support.redis_server import RedisServer
from tests.support.scene import SIZE, Account, Scene, Serve, scene_of
from tests.support.service import DEPLOYMENT, Service, needs_proc

MINUTES = float(os.environ.get("SOAK_MINUTES", "30"))
EVERY_SECONDS = 10.0
VISITORS = 20  # clients that connect and leave between two faults
WARM_SHARE = 1 / 3  # of the samples: until then caches fill
SLACK = 5  # files and tasks that may be in use when they are counted
MIB_IN_TEN_MINUTES = 1.0
NOISE_MIB = 2.0  # of a short run

pytestmark = [needs_proc, pytest.mark.faults, pytest.mark.timeout(MINUTES * 60 + 600)]


class Sample(NamedTuple):
    """The resources of the node's process."""

    minutes: float
    resident_mib: float
    files: int
    tasks: int
    objects: int


async def test_resources_used_during_a_fault_are_released(
    own_redis: RedisServer, serve: Serve, account: Account
) -> None:
    seed = random.randrange(10**6)
    faults = round(MINUTES * 60 / EVERY_SECONDS)
    print(f"\nseed {seed}, {faults} faults, {SIZE}")
    how = {"server": "framed", "app": "tests.support.soaked:application", **DEPLOYMENT}
    async with scene_of(own_redis, serve, account, runs=faults, how=how) as scene:
        samples = await soaked(scene, random.Random(seed), faults)
    given_back(samples)


async def soaked(scene: Scene, chance: random.Random, faults: int) -> list[Sample]:
    """Cause one fault after the other; take a sample after each."""
    begin = time.monotonic()
    samples = [await sample(scene.nodes[0], begin)]
    for number in range(faults):
        due = begin + (number + 1) * EVERY_SECONDS
        fault = chance.choice(FAULTS)
        await fault(scene)
        took = await scene.load.recovered()
        await visited(scene, chance)
        await scene.load.run(max(0.0, due - time.monotonic()))
        samples.append(await sample(scene.nodes[0], begin))
        print(f"{samples[-1]}  {fault.__name__}, live again after {took:.2f} s", flush=True)
    return samples


async def visited(scene: Scene, chance: random.Random) -> None:
    """Let clients connect, listen for a moment and leave, half of them without closing."""
    for url in scene.load.addresses():
        visitors = [await LeanClient.open(url, lambda frame: None) for _ in range(VISITORS)]
        for visitor in visitors:
            visitor.send('{"id":1,"connect":{}}')
            visitor.send('{"id":2,"subscribe":{"channel":"public:load0"}}')
        await scene.load.run(chance.random())
        for visitor in visitors:
            visitor.abort()


async def sample(node: Service, begin: float) -> Sample:
    """Count the resources that the node holds now."""
    async with httpx.AsyncClient() as http:
        counts = (await http.get(f"{node.http}/count", timeout=60)).json()
    files = await asyncio.to_thread(lambda: len(list(Path(f"/proc/{node.pid}/fd").iterdir())))
    minutes = round((time.monotonic() - begin) / 60, 1)
    return Sample(minutes, round(node.resident_bytes / 2**20, 1), files, **counts)


def given_back(samples: list[Sample]) -> None:
    """Compare the end with the beginning, and check whether memory is still growing."""
    first, last = samples[0], samples[-1]
    assert last.files <= first.files + SLACK, f"files: {first.files}, then {last.files}"
    assert last.tasks <= first.tasks + SLACK, f"tasks: {first.tasks}, then {last.tasks}"
    warm = samples[round(len(samples) * WARM_SHARE) :]
    slope = statistics.linear_regression(
        [each.minutes for each in warm], [each.resident_mib for each in warm]
    ).slope
    print(f"memory: {first.resident_mib} MiB, then {last.resident_mib}; {10 * slope:+.2f} / 10 min")
    minutes = last.minutes - warm[0].minutes
    allowed = max(NOISE_MIB, minutes * MIB_IN_TEN_MINUTES / 10)
    assert slope * minutes < allowed, f"{slope * minutes:.2f} MiB more in {minutes:.1f} minutes"
