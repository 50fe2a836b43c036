"""The fallback queue on Redis Cluster, for workers and operators.

A publication and its entry are written in one step, so each partition has a queue of its own.
Workers cannot wait for an entry in 64 of them, so a partition announces that entries wait, and
workers look at all partitions each second as well.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Never

from redis import exceptions

from realtime.brokers.cluster.gathering import gather
from realtime.brokers.cluster.hand import PATIENCE_SECONDS, ClusterHand
from realtime.brokers.cluster.queue_partitions import ALL, QueuePartitions
from realtime.brokers.cluster.queue_sums import sum_stats, sum_tended, weakest
from realtime.brokers.cluster.waiting_partitions import WaitingPartitions
from realtime.brokers.cluster.wake_ups import WakeUpListener
from realtime.brokers.commands import parse_queue_stats
from realtime.brokers.fallback_queue import Durability, TendResult
from realtime.brokers.queue_commands import DURABILITY, parse_durability
from realtime.brokers.redis_queue import COMMAND_SECONDS, PAGE_ENTRIES
from realtime.core.fallback_entry import decode_entry
from realtime.core.outage import Outage
from realtime.core.partitions import PARTITIONS, partition_of
from realtime.errors import BrokerError, BrokerUnavailable, EnvelopeError

if TYPE_CHECKING:
    from realtime.brokers import Stats

LOOK_SECONDS = 1.0
"""How often waiting hands look at all partitions, in case that a wake-up was missed."""

logger = logging.getLogger(__name__)


class ClusterQueue:
    """A `realtime.brokers.fallback_queue.FallbackQueue` on Redis Cluster.

    While the master of a partition is away, its entries wait there, and those of all others are
    handled. What each method does then is described there.
    """

    def __init__(self, url: str, *, prefix: str = "rt", seconds: float = COMMAND_SECONDS) -> None:
        """Connect lazily; arguments as for `realtime.brokers.redis_queue.RedisQueue`."""
        self._partitions = QueuePartitions(url, prefix)
        self._scripts = self._partitions.scripts
        self._seconds = seconds
        self._patience = min(seconds, PATIENCE_SECONDS)
        self._waiting = WaitingPartitions(secrets.randbelow(len(PARTITIONS)))
        self._wake_ups = WakeUpListener(
            self._partitions.links,
            [commands.wake_up for commands in self._partitions.commands],
            self._waiting.note,
        )
        self._watching: list[asyncio.Task[Never]] = []
        self._outage = Outage()

    def hand(self, name: str) -> ClusterHand:
        """Return a hand, which uses the connections of the queue."""
        if not self._watching:
            self._watching = [
                asyncio.create_task(self._wake_ups.run(), name="realtime fallback wake-ups"),
                asyncio.create_task(self._look_at_all(), name="realtime fallback look"),
            ]
            for task in self._watching:
                task.add_done_callback(self._report_bug)
        return ClusterHand(name, self._partitions, self._waiting, self._seconds)

    async def renew_leases(self, hands: Sequence[str], seconds: float) -> None:
        """Extend the leases of hands.

        Where the master is away, the hands take no entries until their leases there are renewed.

        Raises:
            BrokerError: No lease may have been extended.
        """
        names = tuple(hands)
        loop = asyncio.get_running_loop()
        self._partitions.has_leases = True

        async def renew(number: int) -> None:
            began = loop.time()
            command = self._partitions.commands[number].renew_leases(names, seconds)
            script = self._scripts.renew_leases
            await self._partitions.run_script(number, script, command, self._patience)
            if self._partitions.note_renewal(number, began):
                self._waiting.note(number)

        renewed = await gather(ALL, renew)
        renewed.raise_if_all_failed()
        self._log(list(renewed.errors.values()), loop.time())

    async def release(self, hands: Sequence[str]) -> int:
        """Requeue the entries in hands, and end the leases; return the number of entries.

        Do not call it while a hand handles an entry: another worker would handle the entry as well.

        Raises:
            BrokerError: Some of the entries may still be in the hands, until others take them over.
        """
        names = tuple(hands)

        async def release_some(number: int) -> int:
            command = self._partitions.commands[number].release(names)
            script = self._scripts.release
            return int(await self._partitions.run_script(number, script, command, self._patience))

        released = await gather(ALL, release_some)
        released.raise_if_any_failed()
        return sum(released.results.values())

    async def tend(self, attempts: int, reason: str) -> TendResult:
        """Requeue entries that are due, and entries in hands whose leases have expired.

        Where the master is away, that is done when it is back.

        Args:
            attempts: The number of attempts after which an entry is dead.
            reason: The reason to record for operators.

        Raises:
            BrokerError: No partition has answered.
        """

        async def tend_some(number: int) -> TendResult:
            command = self._partitions.commands[number].tend(attempts, reason)
            reply = await self._partitions.run_script(
                number, self._scripts.tend, command, self._patience
            )
            return TendResult(*reply)

        tended = await gather(self._partitions.working or ALL, tend_some)
        tended.raise_if_all_failed()
        return sum_tended(tended.results.values())

    async def stats(self) -> Stats:
        """Return the state of the queue.

        Raises:
            BrokerError: A master is away: the numbers would be too small.
        """

        async def read(number: int) -> Stats:
            if self._partitions.is_failing(number):  # a worker's next renewal asks it again
                raise BrokerUnavailable("Redis: a master of the cluster does not answer")
            reply = await self._partitions.run_script(
                number,
                self._scripts.stats,
                self._partitions.commands[number].stats(),
                self._patience,
            )
            return parse_queue_stats(reply)

        found = await gather(ALL, read)
        found.raise_if_any_failed()
        return sum_stats(found.results.values())

    async def entries(self, place: str) -> AsyncIterator[bytes]:
        """Yield the entries at ``waiting``, ``later`` or ``dead``, by partition.

        Entries that are moved meanwhile may be yielded twice or not at all.

        Raises:
            BrokerError: A master is away. Raised after the entries of all others.
        """

        async def size_of(number: int) -> int:
            command = self._partitions.commands[number].length(place)
            [size] = await self._partitions.execute(number, [command], self._patience)
            return int(size)

        sizes = await gather(ALL, size_of)
        errors = list(sizes.errors.values())
        for number in sorted(number for number, size in sizes.results.items() if size):
            try:
                async for raw in self._entries_in(number, place):
                    yield raw
            except BrokerError as error:
                errors.append(error)
        if errors:
            raise errors[0]

    async def move(self, place: str, raw: bytes, written: bytes = b"") -> bool:
        """Requeue an entry as ``written``, or delete it without one; return whether it existed.

        Raises:
            BrokerError: The master that should have the entry is away; for one that cannot be read,
                any master.
        """
        for number in _places_of(raw):
            command = self._partitions.commands[number].move(place, raw, written)
            if await self._partitions.run_script(
                number, self._scripts.move, command, self._seconds
            ):
                return True
        return False

    async def durability(self) -> Durability:
        """Return the durability settings that all masters have which are not away.

        Raises:
            BrokerError: No master has answered.
        """
        topology = self._partitions.links.topology
        with suppress(exceptions.RedisError):  # nobody answers, which the commands find as well
            await topology.owner(PARTITIONS[0])
        working = self._partitions.working or ALL
        one_of_each = {topology.known_owner(PARTITIONS[number]): number for number in working}

        async def read(number: int) -> Durability:
            return parse_durability(
                await self._partitions.execute(number, DURABILITY, self._patience)
            )

        found = await gather(one_of_each.values(), read)
        found.raise_if_all_failed()
        return weakest(found.results.values())

    async def aclose(self) -> None:
        """Close the connections."""
        for task in self._watching:
            task.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)
        await self._partitions.links.aclose()

    async def _entries_in(self, number: int, place: str) -> AsyncIterator[bytes]:
        start = 0
        while True:
            command = self._partitions.commands[number].page(place, start, PAGE_ENTRIES)
            [page] = await self._partitions.execute(number, [command], self._seconds)
            for raw in page:
                yield raw
            if len(page) < PAGE_ENTRIES:
                return
            start += PAGE_ENTRIES

    async def _look_at_all(self) -> Never:
        """Note where entries wait, each second while a hand has none."""

        async def look_at(number: int) -> None:
            command = self._partitions.commands[number].length("waiting")
            [waiting] = await self._partitions.execute(number, [command], self._patience)
            if waiting:
                self._waiting.note(number)

        while True:
            await self._waiting.are_wanted.wait()
            await gather(self._partitions.working, look_at)
            await asyncio.sleep(LOOK_SECONDS)

    def _log(self, errors: Sequence[BrokerError], now: float) -> None:
        """Log that masters are away, once until all of them are back."""
        if errors and self._outage.note_failure(now):
            logger.warning(
                "cannot reach %d of %d partitions of the fallback queue; the others go on: %s",
                *(len(errors), len(PARTITIONS), errors[0]),
            )
        if not errors and (over := self._outage.note_success(now)) is not None:
            logger.info("all partitions of the fallback queue answer after %.1f s", over.seconds)

    def _report_bug(self, task: asyncio.Task[Never]) -> None:
        """Let the hands raise what has ended a task, instead of waiting in vain."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._waiting.fail(error)


def _places_of(raw: bytes) -> Sequence[int]:
    """Return the partitions that may have an entry: all of them, if its channel is unreadable."""
    try:
        return [partition_of(decode_entry(raw).queued.channel).number]
    except EnvelopeError:
        return list(ALL)
