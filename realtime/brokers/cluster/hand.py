"""A hand of a fallback worker on Redis Cluster, which has a list in each partition."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING

from realtime.brokers.cluster.gathering import gather
from realtime.brokers.cluster.queue_partitions import ALL, QueuePartitions
from realtime.brokers.fallback_queue import AttemptResult
from realtime.brokers.redis_queue import EndsAttempts
from realtime.errors import BrokerError, OutcomeUnknown

if TYPE_CHECKING:
    from realtime.brokers.cluster.waiting_partitions import WaitingPartitions

PATIENCE_SECONDS = 1.0
"""How long a master may take to answer: there are others to ask, and it may be frozen. It is
replaced after a longer time, and its answer when it wakes up would be about a queue that no longer
counts."""
LOOK_AGAIN_SECONDS = 1.0
"""How often a hand looks at lists that may have an entry."""
LATE_SECONDS = 60.0
"""How long a command without an answer may still be executed: by a frozen master that wakes up."""


class ClusterHand(EndsAttempts):
    """A `realtime.brokers.fallback_queue.QueueHand` on Redis Cluster.

    It handles one entry at a time, but may have one in several lists: where a `take` got no answer,
    or where the master was away when it looked. It looks at these lists again before it takes
    other entries. If a master is away when an attempt ends, other hands go on.
    """

    def __init__(
        self, name: str, partitions: QueuePartitions, waiting: WaitingPartitions, seconds: float
    ) -> None:
        self.name = name
        self._partitions = partitions
        self._waiting = waiting
        self._patience = min(seconds, PATIENCE_SECONDS)
        self._held: tuple[bytes, int] | None = None
        """The entry that was returned last, and the partition that has it."""
        self._doubts: dict[int, float] = {}
        """The partitions where the list may have an entry, and how long it may still get one."""
        self._look_at = 0.0

    async def take(self, seconds: float) -> bytes | None:
        """Take the next entry, or wait for one; None if none comes within ``seconds``.

        A partition whose master is away is left out, so it does not raise `BrokerError`.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        if self._doubts and loop.time() >= self._look_at:
            found = await self._look([n for n in self._doubts if self._is_working(n)])
            if found is not None:
                return found
        while (number := await self._waiting.next(until)) is not None:
            # A partition that fails is noted again when its leases are renewed.
            if self._is_working(number):
                raw = await self._take_at(number)
                if raw is not None:
                    return raw
        return None

    async def peek(self) -> bytes | None:
        """Return an entry in one of the lists, if there is one.

        Lists that cannot be read are looked at again by `take`.

        Raises:
            BrokerError: No list could be read.
        """
        working = self._partitions.working or ALL
        until = asyncio.get_running_loop().time() + LATE_SECONDS
        self._doubts.update({number: until for number in ALL if number not in working})
        return await self._look(working, must_read=True)

    async def aclose(self) -> None:
        """Do nothing: the connections are those of the queue."""

    def _is_working(self, number: int) -> bool:
        return not self._partitions.is_failing(number)

    async def _take_at(self, number: int) -> bytes | None:
        command = self._partitions.commands[number].take_now(self.name)
        script = self._partitions.scripts.take
        try:
            reply = await self._partitions.run_script(number, script, command, self._patience)
        except OutcomeUnknown:
            self._doubt(number)
            return None
        except BrokerError:
            return None
        raw: bytes | None = reply
        if raw is not None:
            self._held = (raw, number)
            self._waiting.note(number)  # perhaps it was not the only one
        return raw

    async def _look(self, numbers: Iterable[int], *, must_read: bool = False) -> bytes | None:
        """Return an entry in one of these lists; remember which others may have one."""
        loop = asyncio.get_running_loop()

        async def read(number: int) -> bytes | None:
            command = self._partitions.commands[number].peek(self.name)
            [reply] = await self._partitions.execute(number, [command], self._patience)
            return reply  # type: ignore[no-any-return]

        read_lists = await gather(numbers, read)
        now = loop.time()
        self._look_at = now + LOOK_AGAIN_SECONDS
        for number in read_lists.errors:
            self._doubt(number)
        if must_read:
            read_lists.raise_if_all_failed()
        held = [(raw, n) for n, raw in read_lists.results.items() if raw is not None]
        for _, number in held:
            self._doubt(number)
        for number in read_lists.results:
            if self._doubts.get(number, now) < now:
                del self._doubts[number]
        if not held:
            return None
        self._held = held[0]
        return held[0][0]

    def _doubt(self, number: int) -> None:
        self._doubts[number] = asyncio.get_running_loop().time() + LATE_SECONDS

    async def _end_attempt(
        self, raw: bytes, outcome: str, written: bytes = b"", seconds: float = 0.0
    ) -> AttemptResult:
        if self._held is None or self._held[0] != raw:
            return AttemptResult(is_ours=False, next=None)
        number = self._held[1]
        command = self._partitions.commands[number].end_attempt(
            self.name, raw, outcome, written, seconds
        )
        script = self._partitions.scripts.end_attempt
        reply = await self._partitions.run_script(number, script, command, self._patience)
        is_ours, following = reply
        if following is not None:
            self._held = (following, number)
        return AttemptResult(is_ours == b"1", following)
