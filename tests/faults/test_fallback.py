"""Live or queued, and handled at least once, whatever is killed, and whenever.

Publications name a fallback, on channels without listeners and on one with a listener. Workers of a
host project are killed with -9 while they work; Redis (with an append-only file) is killed and
restarted. Each handler records what it receives, and the publishers record the responses; at the
end, the two must agree. NOTIFIER_FAULTS=full runs it in full size.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from realtime.brokers import Event, Message
from realtime.brokers.redis import RedisBroker
from realtime.brokers.redis_queue import RedisQueue
from realtime.core.publication import Publication, Receipt
from realtime.errors import BrokerError
from tests.support.command import Command
from tests.support.eventually import eventually
from tests.support.redis_server import RedisServer
from tests.support.scene import FULL

DARK, LIT = "dark", "lit"
WORKERS = 3
LEASE_SECONDS = 3


class Size(NamedTuple):
    publications: int
    """On channels without listeners; one fifth as many go to the channel with a listener."""
    worker_kills: int
    redis_kills: int
    publishers: int


SIZE = Size(10_000, 20, 5, 16) if FULL else Size(1_000, 4, 1, 8)


class Workers:
    """Processes of `runfallback`; a killed one is replaced."""

    def __init__(self, redis: RedisServer, ledger: Path) -> None:
        self._env = {"TEST_REDIS_URL": redis.url, "TEST_LEDGER": str(ledger)}
        self._commands: list[Command] = []

    def start(self) -> None:
        options = ("--lease", str(LEASE_SECONDS), "--attempts", "100")
        self._commands.append(Command("runfallback", *options, **self._env))

    def kill_one(self) -> None:
        victim = self._commands.pop(random.randrange(len(self._commands)))
        victim.stop()  # SIGKILL
        self.start()

    def leave(self) -> list[int]:
        return [command.interrupt() for command in self._commands]

    def stop(self) -> None:
        for command in self._commands:
            command.stop()


@pytest.fixture
def kept_redis() -> Iterator[RedisServer]:
    """A Valkey that persists its data; the last `--appendonly` of its command line takes effect."""
    server = RedisServer("--appendonly", "yes", "--appendfsync", "everysec").start()
    yield server
    server.stop()


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    path = tmp_path / "ledger"
    path.touch()
    return path


@pytest.fixture
def workers(kept_redis: RedisServer, ledger: Path) -> Iterator[Workers]:
    made = Workers(kept_redis, ledger)
    for _ in range(WORKERS):
        made.start()
    yield made
    made.stop()


@pytest.fixture
async def queue(kept_redis: RedisServer) -> AsyncIterator[RedisQueue]:
    made = RedisQueue(kept_redis.url)
    yield made
    await made.aclose()


async def published(broker: RedisBroker, channel: str, number: int) -> Receipt:
    """Publish until the outcome is certain, as the docs recommend: with an idempotency key."""
    publication = Publication.of(
        channel, {"n": number}, fallback="ledger", idempotency_key=f"{channel}-{number}"
    )
    while True:
        with suppress(BrokerError):
            return await broker.publish(publication)
        await asyncio.sleep(0.05)


class Listener:
    """Listens to the lit channel like a node, and reconnects after each break."""

    def __init__(self, url: str) -> None:
        self._broker = RedisBroker(url)
        self.heard = 0

    async def run(self) -> None:
        while True:
            with suppress(BrokerError):
                subscription = await self._broker.subscription()
                try:
                    await subscription.send([LIT], [])
                    await subscription.listen(self._hear)
                finally:
                    await subscription.aclose()
            await asyncio.sleep(0.05)

    def _hear(self, events: Sequence[Event]) -> None:
        self.heard += sum(isinstance(event, Message) for event in events)

    async def aclose(self) -> None:
        await self._broker.aclose()


def written(ledger: Path) -> list[str]:
    """Return the ids that handlers received, in the order in which they started."""
    lines = ledger.read_text(encoding="utf-8").splitlines()
    return [line.split()[0] for line in lines]


async def test_every_queued_publication_is_handled_and_no_live_one_is(
    kept_redis: RedisServer,
    ledger: Path,
    workers: Workers,
    queue: RedisQueue,
) -> None:
    brokers = [RedisBroker(kept_redis.url) for _ in range(SIZE.publishers)]
    listener = Listener(kept_redis.url)
    listening = asyncio.create_task(listener.run())
    numbers = iter(range(SIZE.publications))
    receipts: list[tuple[str, Receipt]] = []

    async def keep_publishing(broker: RedisBroker) -> None:
        for number in numbers:
            receipts.append((DARK, await published(broker, DARK, number)))
            if number % 5 == 0:
                receipts.append((LIT, await published(broker, LIT, number)))

    kills = ["worker"] * SIZE.worker_kills + ["redis"] * SIZE.redis_kills
    random.shuffle(kills)

    async def keep_killing() -> None:
        """Kill workers at intervals during the run, each in the middle of its work."""
        for number, victim in enumerate(kills):
            due = SIZE.publications * (number + random.random()) / len(kills)
            await eventually(lambda due=due: len(written(ledger)) >= due, seconds=120)
            if victim == "worker":
                await asyncio.to_thread(workers.kill_one)
            else:
                await asyncio.to_thread(kept_redis.kill)
                await asyncio.sleep(random.uniform(0, 0.3))
                await asyncio.to_thread(kept_redis.start)

    started = time.monotonic()
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(keep_killing())
            for broker in brokers:
                group.create_task(keep_publishing(broker))
        assert len(receipts) == SIZE.publications * 6 // 5

        async def is_done() -> bool:
            with suppress(BrokerError):
                stats = await queue.stats()
                return not any((stats.waiting, stats.in_hand, stats.later))
            return False

        await eventually(is_done, seconds=120)
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        await listener.aclose()
        for broker in brokers:
            await broker.aclose()
    assert workers.leave() == [0] * WORKERS

    got = Counter(written(ledger))
    queued = {f"{r.epoch}-{r.offset}" for _, r in receipts if r.queued}
    live = {f"{r.epoch}-{r.offset}" for _, r in receipts if not r.queued}
    assert len(queued) + len(live) == len(receipts), "two publications have the same id"
    assert all(r.queued is (r.nodes == 0) for _, r in receipts)
    assert sum(r.queued for channel, r in receipts if channel == DARK) == SIZE.publications
    assert not queued - got.keys(), "lost"
    assert not got.keys() & live, "live, and queued as well"
    assert not got.keys() - queued, "handled, but nobody published it"
    assert live, "the listener received nothing, so this proves nothing about live delivery"
    assert listener.heard, "a node was subscribed but received nothing"
    stats = await queue.stats()
    assert stats.dead == 0
    if FULL:
        print(
            f"\n{len(receipts):,} published, {len(queued):,} queued, {len(live):,} live; handled "
            f"{got.total():,} times, {got.total() - len(got):,} repeats, "
            f"{stats.taken_over:,} taken over; {SIZE.worker_kills} workers and "
            f"{SIZE.redis_kills} times Redis killed; {time.monotonic() - started:.0f} s"
        )
