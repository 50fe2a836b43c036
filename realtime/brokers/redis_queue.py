"""The fallback queue, for workers and operators. `queue_commands` explains its terms."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

from redis import exceptions

from realtime.brokers.commands import parse_queue_stats, unavailable
from realtime.brokers.fallback_queue import AttemptResult, Durability, TendResult
from realtime.brokers.link import Link
from realtime.brokers.queue_commands import DURABILITY, QueueCommands, parse_durability

if TYPE_CHECKING:
    from realtime.brokers import Stats
    from realtime.brokers.script import Args, Script

COMMAND_SECONDS = 5.0
"""The timeout for replies of Redis; a worker can wait longer than a publisher."""
FULL_PAUSE_SECONDS = 0.2
"""How long a hand pauses when it finds no entry and Redis is full, since a full Redis refuses
BLMOVE."""
PAGE_ENTRIES = 100


class RedisQueue:
    """The queue on Redis. Bound to one event loop; create it inside that loop."""

    def __init__(self, url: str, *, prefix: str = "rt", seconds: float = COMMAND_SECONDS) -> None:
        """Connect lazily; arguments as for `realtime.brokers.redis.RedisBroker`."""
        self._url = url
        self._commands = QueueCommands(prefix)
        self._scripts = self._commands.scripts
        self._seconds = seconds
        self._link = Link(url)

    def hand(self, name: str) -> RedisHand:
        """Return a hand with its own connection, on which it waits for entries."""
        return RedisHand(name, self._commands, Link(self._url), self._seconds)

    async def renew_leases(self, hands: Sequence[str], seconds: float) -> None:
        """Extend the leases of hands.

        Raises:
            BrokerError: The leases may not have been extended. All methods of this class raise it.
        """
        await self._run_script(
            self._scripts.renew_leases, self._commands.renew_leases(tuple(hands), seconds)
        )

    async def release(self, hands: Sequence[str]) -> int:
        """Requeue the entries in hands, and end the leases; return the number of entries.

        Do not call it while a hand handles an entry: another worker would handle the entry as well.
        """
        command = self._commands.release(tuple(hands))
        return int(await self._run_script(self._scripts.release, command))

    async def tend(self, attempts: int, reason: str) -> TendResult:
        """Requeue entries that are due, and entries in hands whose leases have expired.

        Args:
            attempts: The number of attempts after which an entry is dead.
            reason: The reason to record for operators.
        """
        command = self._commands.tend(attempts, reason)
        return TendResult(*await self._run_script(self._scripts.tend, command))

    async def stats(self) -> Stats:
        """Return the state of the queue."""
        command = self._commands.stats()
        [reply] = await self._link.run_script(self._scripts.stats, [command], self._seconds)
        return parse_queue_stats(reply)

    async def entries(self, place: str) -> AsyncIterator[bytes]:
        """Yield the entries at ``waiting``, ``later`` or ``dead``.

        Entries that are moved meanwhile may be yielded twice or not at all.
        """
        start = 0
        while True:
            page = await self._execute(self._commands.page(place, start, PAGE_ENTRIES))
            for raw in page:
                yield raw
            if len(page) < PAGE_ENTRIES:
                return
            start += PAGE_ENTRIES

    async def move(self, place: str, raw: bytes, written: bytes = b"") -> bool:
        """Requeue an entry as ``written``, or delete it without one; return whether it existed."""
        command = self._commands.move(place, raw, written)
        return bool(await self._run_script(self._scripts.move, command))

    async def durability(self) -> Durability:
        """Return the durability settings of Redis."""
        replies = await self._link.execute(DURABILITY, self._seconds)
        answer_of(replies[0])
        return parse_durability(replies)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._link.aclose()

    async def _run_script(self, script: Script, command: Args) -> Any:
        return answer_of((await self._link.run_script(script, [command], self._seconds))[0])

    async def _execute(self, command: Args) -> Any:
        return answer_of((await self._link.execute([command], self._seconds))[0])


class EndsAttempts:
    """The methods of a hand that end an attempt; a subclass sends the command."""

    async def acknowledge(self, raw: bytes) -> AttemptResult:
        """Remove a handled entry from the hand.

        Raises:
            BrokerUnavailable: The entry is certainly still in the hand.
            OutcomeUnknown: The entry may still be in the hand; retrying is safe.
        """
        return await self._end_attempt(raw, "handled")

    async def retry(self, raw: bytes, written: bytes, seconds: float) -> AttemptResult:
        """Schedule a retry of an entry, stored as ``written``; errors as for `acknowledge`."""
        return await self._end_attempt(raw, "retried", written, seconds)

    async def bury(self, raw: bytes, written: bytes) -> AttemptResult:
        """Move an entry to the dead ones, stored as ``written``; errors as for `acknowledge`."""
        return await self._end_attempt(raw, "dead", written)

    async def _end_attempt(
        self, raw: bytes, outcome: str, written: bytes = b"", seconds: float = 0.0
    ) -> AttemptResult:
        raise NotImplementedError


class RedisHand(EndsAttempts):
    """A `realtime.brokers.fallback_queue.QueueHand` on Redis, with its own connection."""

    def __init__(self, name: str, commands: QueueCommands, link: Link, seconds: float) -> None:
        self.name = name
        self._commands = commands
        self._link = link
        self._seconds = seconds

    async def take(self, seconds: float) -> bytes | None:
        """Take the next entry, or wait for one; None if none comes within ``seconds``.

        Raises:
            BrokerError: The hand may contain an entry now; call `peek`.
        """
        command = self._commands.take(self.name, seconds)
        [reply] = await self._link.execute([command], seconds + self._seconds)
        if isinstance(reply, exceptions.OutOfMemoryError):
            command = self._commands.take_now(self.name)
            script = self._commands.scripts.take
            [reply] = await self._link.run_script(script, [command], self._seconds)
            if reply is None:
                await asyncio.sleep(min(seconds, FULL_PAUSE_SECONDS))
        taken: bytes | None = answer_of(reply)
        return taken

    async def peek(self) -> bytes | None:
        """Return the first entry in the hand, if there is one.

        Raises:
            BrokerError: Redis could not be read.
        """
        [reply] = await self._link.execute([self._commands.peek(self.name)], self._seconds)
        found: bytes | None = answer_of(reply)
        return found

    async def aclose(self) -> None:
        """Close the connection of the hand."""
        await self._link.aclose()

    async def _end_attempt(
        self, raw: bytes, outcome: str, written: bytes = b"", seconds: float = 0.0
    ) -> AttemptResult:
        command = self._commands.end_attempt(self.name, raw, outcome, written, seconds)
        script = self._commands.scripts.end_attempt
        [reply] = await self._link.run_script(script, [command], self._seconds)
        is_ours, following = answer_of(reply)
        return AttemptResult(is_ours == b"1", following)


def answer_of(reply: Any) -> Any:
    """Return a reply unless it is an error.

    Raises:
        BrokerUnavailable: Redis refused the command.
    """
    if isinstance(reply, exceptions.RedisError):
        raise unavailable(reply)
    return reply
