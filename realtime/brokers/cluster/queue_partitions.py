"""The commands about the fallback queue in each partition of a cluster, and which ones fail."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from realtime.brokers.cluster.links import ClusterLinks
from realtime.brokers.queue_commands import QueueCommands
from realtime.brokers.redis_queue import answer_of
from realtime.core.partitions import PARTITIONS
from realtime.errors import BrokerError

if TYPE_CHECKING:
    from realtime.brokers.script import Args, Script

ALL: Collection[int] = range(len(PARTITIONS))
"""The numbers of all partitions."""


class QueuePartitions:
    """See the module. Bound to one event loop.

    For a worker, a partition *fails* from the first command that gets no answer, or an error, to
    the next renewal of leases there. Its master may have been replaced by one that lacks the
    leases, and an entry in a hand without a lease would be taken over by nobody: hands must not
    take entries there. For operators, who renew none, nothing fails: each command is tried.
    """

    def __init__(self, url: str, prefix: str) -> None:
        self.links = ClusterLinks(url)
        self.commands = [QueueCommands(prefix, each) for each in PARTITIONS]
        """Those of each partition."""
        self.scripts = self.commands[0].scripts
        """The scripts of all partitions."""
        self.has_leases = False
        """Whether leases are renewed."""
        self._failed_at: dict[int, float] = {}

    @property
    def working(self) -> list[int]:
        """The partitions that do not fail."""
        return [number for number in ALL if number not in self._failed_at]

    def is_failing(self, number: int) -> bool:
        """Tell whether a partition fails."""
        return number in self._failed_at

    def note_failure(self, number: int) -> None:
        """Record that a partition fails."""
        if self.has_leases:
            self._failed_at[number] = asyncio.get_running_loop().time()

    def note_renewal(self, number: int, began: float) -> bool:
        """Record that the leases in a partition were renewed; return whether it has failed before.

        Args:
            number: The partition.
            began: When the renewal began: a failure since then may be the end of that master.
        """
        if self._failed_at.get(number, began) >= began:
            return False
        return self._failed_at.pop(number, None) is not None

    async def run_script(self, number: int, script: Script, command: Args, seconds: float) -> Any:
        """Return the reply of a script in a partition.

        Raises:
            BrokerUnavailable: Certainly not done.
            OutcomeUnknown: Perhaps done.
        """
        try:
            replies = await self.links.run_script(PARTITIONS[number], script, [command], seconds)
            return answer_of(replies[0])
        except BrokerError:
            self.note_failure(number)
            raise

    async def execute(self, number: int, commands: Sequence[Args], seconds: float) -> list[Any]:
        """Return the replies in a partition, of which the first is not an error; else as above."""
        try:
            replies = await self.links.execute(PARTITIONS[number], commands, seconds)
            answer_of(replies[0])
        except BrokerError:
            self.note_failure(number)
            raise
        return replies
