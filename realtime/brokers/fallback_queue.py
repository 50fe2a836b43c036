"""The contract of the fallback queue, for workers and operators.

An entry is *waiting* until a worker takes it into one of its *hands*, where it stays while it is
handled. It leaves the hand when it is handled, is retried *later*, or is *dead*. A hand has a lease
that its worker renews; when the lease expires, the entry in the hand is waiting again.

All methods raise `BrokerError` if the change may not have been made; retrying is safe.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    from realtime.brokers import Stats

PLACES: Final = ("waiting", "later", "dead")
"""The places in which an operator can inspect entries."""


class TendResult(NamedTuple):
    """The numbers of entries that a `tend` moved."""

    due: int
    taken_over: int
    dead: int
    """Dead ones among those taken over."""


class AttemptResult(NamedTuple):
    """The result of ending an attempt."""

    is_ours: bool
    """Whether the entry was still in the hand; otherwise another worker has taken it over."""
    next: bytes | None
    """The next entry in the hand, if there is one."""


class Durability(NamedTuple):
    """The durability settings of Redis."""

    aof: bool
    """Whether Redis writes an append-only file."""
    fsync: str
    """``always``, ``everysec`` or ``no``; empty if it is unknown."""
    eviction: str
    """The ``maxmemory-policy``."""
    restores: bool
    """Whether Redis writes snapshots."""


class QueueHand(Protocol):
    """One hand of a worker, which handles one entry at a time. Used by a single task."""

    @property
    def name(self) -> str:
        """The name, which no other hand has."""

    async def take(self, seconds: float) -> bytes | None:
        """Take the next entry, or wait for one; None if none comes within ``seconds``.

        If it raises, the hand may contain an entry: call `peek`.
        """

    async def peek(self) -> bytes | None:
        """Return the first entry in the hand, if there is one."""

    async def acknowledge(self, raw: bytes) -> AttemptResult:
        """Remove a handled entry from the hand."""

    async def retry(self, raw: bytes, written: bytes, seconds: float) -> AttemptResult:
        """Schedule a retry of an entry, stored as ``written``."""

    async def bury(self, raw: bytes, written: bytes) -> AttemptResult:
        """Move an entry to the dead ones, stored as ``written``."""

    async def aclose(self) -> None:
        """Close what the hand holds; its entry and its lease stay."""


class FallbackQueue(Protocol):
    """The queue. Bound to one event loop."""

    def hand(self, name: str) -> QueueHand:
        """Return a hand, which the caller closes."""

    async def renew_leases(self, hands: Sequence[str], seconds: float) -> None:
        """Extend the leases of hands."""

    async def release(self, hands: Sequence[str]) -> int:
        """Requeue the entries in hands, and end the leases; return the number of entries."""

    async def tend(self, attempts: int, reason: str) -> TendResult:
        """Requeue entries that are due, and entries in hands whose leases have expired.

        Args:
            attempts: The number of attempts after which an entry is dead.
            reason: The reason to record for operators.
        """

    async def stats(self) -> Stats:
        """Return the state of the queue."""

    def entries(self, place: str) -> AsyncIterator[bytes]:
        """Yield the entries at one of `PLACES`.

        Entries that are moved meanwhile may be yielded twice or not at all.
        """

    async def move(self, place: str, raw: bytes, written: bytes = b"") -> bool:
        """Requeue an entry as ``written``, or delete it without one; return whether it existed."""

    async def durability(self) -> Durability:
        """Return the durability settings, as far as they are known."""

    async def aclose(self) -> None:
        """Close the connections."""
