"""The queue for fallbacks, for its workers and operators. What its words mean: `queue_commands`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

from redis import exceptions

from realtime.brokers import Stats
from realtime.brokers.commands import queue_stats, unavailable
from realtime.brokers.queue_commands import (
    HOLD,
    LEAVE,
    MOVE,
    SETTLE,
    STATS,
    TEND,
    QueueCommands,
    Tended,
)
from realtime.brokers.road import Road
from realtime.brokers.script import Args, Script

SECONDS = 5.0
"""Until Redis has to answer; a worker can wait longer than a publisher."""
PAGE = 100


class Durability(NamedTuple):
    """What Redis does to keep what it has."""

    aof: bool
    """Whether it writes an append-only file."""
    fsync: str
    """``always``, ``everysec`` or ``no``; empty where it does not tell."""
    eviction: str
    """Its ``maxmemory-policy``."""
    restores: bool
    """Whether it writes snapshots, at least."""


class Settled(NamedTuple):
    """The end of an attempt."""

    is_ours: bool
    """Whether the entry was still in the hand; otherwise somebody else has taken it over."""
    next: bytes | None
    """What else is in the hand."""


class RedisQueue:
    """Belongs to one event loop; make it inside."""

    def __init__(self, url: str, *, prefix: str = "rt", seconds: float = SECONDS) -> None:
        """Connect lazily; arguments as for `realtime.brokers.redis.RedisBroker`."""
        self._url = url
        self._commands = QueueCommands(prefix)
        self._seconds = seconds
        self._road = Road(url)

    def hand(self, name: str) -> Hand:
        """Return a hand with a connection of its own: it waits there for what is to be done."""
        return Hand(name, self._commands, Road(self._url), self._seconds)

    async def hold(self, hands: Sequence[str], seconds: float) -> None:
        """Let the leases of hands last so much longer.

        Raises:
            BrokerError: They perhaps do not, like all methods here.
        """
        await self._run(HOLD, self._commands.hold(tuple(hands), seconds))

    async def leave(self, hands: Sequence[str]) -> int:
        """Let what is in hands wait again, and end their leases; return how many entries that was.

        Not with something under way in a hand: it would go on, and somebody else would as well.
        """
        return int(await self._run(LEAVE, self._commands.leave(tuple(hands))))

    async def tend(self, attempts: int, reason: str) -> Tended:
        """Let wait again what is due and what is in hands whose leases have ended.

        Args:
            attempts: After how many an entry is dead.
            reason: Why, in words for an operator.
        """
        return Tended(*await self._run(TEND, self._commands.tend(attempts, reason)))

    async def stats(self) -> Stats:
        """Return how the queue stands."""
        [reply] = await self._road.run(STATS, [self._commands.stats()], self._seconds)
        return queue_stats(reply)

    async def entries(self, place: str) -> AsyncIterator[bytes]:
        """Yield the entries at ``waiting``, ``later`` or ``dead``.

        What is moved meanwhile may come twice or not at all.
        """
        start = 0
        while True:
            page = await self._exchange(self._commands.page(place, start, PAGE))
            for raw in page:
                yield raw
            if len(page) < PAGE:
                return
            start += PAGE

    async def move(self, place: str, raw: bytes, written: bytes = b"") -> bool:
        """Let an entry wait as it is written, or forget it; return whether it was there."""
        return bool(await self._run(MOVE, self._commands.move(place, raw, written)))

    async def durability(self) -> Durability:
        """Return what Redis does to keep what it has."""
        info = (await self._exchange(("INFO",))).decode(errors="replace")
        facts = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
        [fsync] = await self._road.exchange([("CONFIG", "GET", "appendfsync")], self._seconds)
        [save] = await self._road.exchange([("CONFIG", "GET", "save")], self._seconds)
        return Durability(
            aof=facts.get("aof_enabled") == "1",
            fsync=_second(fsync),
            eviction=facts.get("maxmemory_policy", ""),
            restores=bool(_second(save)),
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._road.aclose()

    async def _run(self, script: Script, command: Args) -> Any:
        return _answer((await self._road.run(script, [command], self._seconds))[0])

    async def _exchange(self, command: Args) -> Any:
        return _answer((await self._road.exchange([command], self._seconds))[0])


class Hand:
    """One hand of a worker: it does one thing after the other. One task uses it."""

    def __init__(self, name: str, commands: QueueCommands, road: Road, seconds: float) -> None:
        self.name = name
        self._commands = commands
        self._road = road
        self._seconds = seconds

    async def take(self, seconds: float) -> bytes | None:
        """Take the next entry, or wait for one; None if none comes within ``seconds``.

        Raises:
            BrokerError: Perhaps there is one in the hand now: `look`.
        """
        command = self._commands.take(self.name, seconds)
        [reply] = await self._road.exchange([command], seconds + self._seconds)
        taken: bytes | None = _answer(reply)
        return taken

    async def look(self) -> bytes | None:
        """Return what is in the hand, the first if there are several.

        Raises:
            BrokerError: Not known now.
        """
        [reply] = await self._road.exchange([self._commands.look(self.name)], self._seconds)
        found: bytes | None = _answer(reply)
        return found

    async def handled(self, raw: bytes) -> Settled:
        """Let go of an entry that is done.

        Raises:
            BrokerUnavailable: Certainly it is still in the hand.
            OutcomeUnknown: Perhaps it is; saying so again is safe.
        """
        return await self._settle(raw, "handled")

    async def retried(self, raw: bytes, written: bytes, seconds: float) -> Settled:
        """Put an entry aside, as it is written, to be tried again; errors as for `handled`."""
        return await self._settle(raw, "retried", written, seconds)

    async def dead(self, raw: bytes, written: bytes) -> Settled:
        """Put an entry, as it is written, where the operator finds it; errors as for `handled`."""
        return await self._settle(raw, "dead", written)

    async def aclose(self) -> None:
        """Close its connection."""
        await self._road.aclose()

    async def _settle(
        self, raw: bytes, outcome: str, written: bytes = b"", seconds: float = 0.0
    ) -> Settled:
        command = self._commands.settle(self.name, raw, outcome, written, seconds)
        [reply] = await self._road.run(SETTLE, [command], self._seconds)
        is_ours, following = _answer(reply)
        return Settled(is_ours == b"1", following)


def _answer(reply: Any) -> Any:
    """Return a reply.

    Raises:
        BrokerUnavailable: It refuses.
    """
    if isinstance(reply, exceptions.RedisError):
        raise unavailable(reply)
    return reply


def _second(reply: Any) -> str:
    """Return the value in the answer to CONFIG GET; empty where we may not ask."""
    if isinstance(reply, exceptions.RedisError) or len(reply) < 2:
        return ""
    return bytes(reply[1]).decode()
