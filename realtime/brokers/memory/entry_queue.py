"""The fallback queue inside the process; `realtime.brokers.fallback_queue` explains its terms.

The same steps as the scripts `queue_*.lua`, on the same entries. Times are milliseconds since 1970.
"""

from __future__ import annotations

import re
from bisect import insort
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import NamedTuple

import msgspec

from realtime.brokers.bounds import KNOWN_SECONDS, QUEUE_BYTES, QUEUE_ITEMS, QUEUE_LOT

ENTRY_OVERHEAD = 96
"""The maximum size of an entry's attempts, epoch, offset and time, with their names."""
_ENTRY = re.compile(rb"(\d+) (\{.*\})", re.DOTALL)


class EntryQueueLimits(NamedTuple):
    """The limits of a queue."""

    items: int = QUEUE_ITEMS
    bytes: int = QUEUE_BYTES


class EntryQueueState(NamedTuple):
    """The state of the queue."""

    waiting: int
    in_hand: int
    later: int
    dead: int
    hands: int
    """Hands with a lease."""
    next: bytes | None
    """The next entry."""
    bytes: int


class EntryQueue:
    """The queue. No clock."""

    def __init__(self) -> None:
        self._waiting: deque[bytes] = deque()
        self._later: list[tuple[int, bytes]] = []  # sorted
        self._dead: list[bytes] = []
        self._leases: dict[str, int] = {}
        self._held: dict[str, deque[bytes]] = {}
        self.counts: Counter[str] = Counter()
        """The totals of ``handled``, ``retried``, ``taken_over`` and ``dead``."""
        self._bytes = 0

    @property
    def has_waiting(self) -> bool:
        """Whether a hand can take an entry."""
        return bool(self._waiting)

    def is_full(self, size: int, limits: EntryQueueLimits) -> bool:
        """Tell whether an entry of this size, without its overhead, has no room."""
        items = len(self._waiting) + len(self._later) + len(self._dead)
        return items >= limits.items or self._bytes + size + ENTRY_OVERHEAD > limits.bytes

    def add(self, raw: bytes) -> None:
        """Queue an entry."""
        self._waiting.append(raw)
        self._bytes += len(raw)

    def take(self, hand: str) -> bytes | None:
        """Move the next entry into a hand, if there is one."""
        if not self._waiting:
            return None
        raw = self._waiting.popleft()
        self._held.setdefault(hand, deque()).append(raw)
        return raw

    def peek(self, hand: str) -> bytes | None:
        """Return the first entry in a hand, if there is one."""
        held = self._held.get(hand)
        return held[0] if held else None

    def renew_leases(self, hands: Iterable[str], until: int) -> None:
        """Extend the leases of hands."""
        self._leases.update((hand, until) for hand in hands)

    def release(self, hands: Iterable[str], now: int) -> int:
        """Requeue the entries of hands, and end their leases; return the number of entries."""
        back = 0
        for hand in hands:
            held = self._held.pop(hand, deque())
            self._waiting.extendleft(reversed(held))
            back += len(held)
            self._leases[hand] = now
        return back

    def end_attempt(
        self, hand: str, raw: bytes, outcome: str, written: bytes, due: int
    ) -> tuple[bool, bytes | None]:
        """End an attempt: ``handled``, ``retried`` at ``due``, or ``dead``.

        Returns whether the entry was still in the hand, and the next entry in the hand.
        """
        held = self._held.get(hand, deque())
        is_ours = raw in held
        if is_ours:
            held.remove(raw)
            if outcome == "retried":
                insort(self._later, (due, written))
            elif outcome == "dead":
                self._dead.append(written)
            self._bytes += (0 if outcome == "handled" else len(written)) - len(raw)
            self.counts[outcome] += 1
        following = self.peek(hand)
        if following is None:
            self._held.pop(hand, None)
        return is_ours, following

    def tend(self, now: int, attempts: int, reason: str) -> tuple[int, int, int]:
        """Requeue entries that are due, and those in hands whose leases have expired.

        Returns the numbers of due entries, of those taken over, and of dead ones among these.
        """
        due = 0
        while due < QUEUE_LOT and self._later and self._later[0][0] <= now:
            self._waiting.append(self._later.pop(0)[1])
            due += 1
        over = dead = 0
        for hand in [hand for hand, until in self._leases.items() if until <= now]:
            held = self._held.get(hand, deque())
            while held and over < QUEUE_LOT:
                dead += self._take_over(held.popleft(), now, attempts, reason)
                over += 1
            if not held:
                self._held.pop(hand, None)
                if self._leases[hand] < now - KNOWN_SECONDS * 1000:
                    del self._leases[hand]
        self.counts["taken_over"] += over
        return due, over, dead

    def _take_over(self, raw: bytes, now: int, attempts: int, reason: str) -> bool:
        """Requeue or bury an entry of a lost worker; return whether it is dead.

        The worker has died or was frozen, perhaps because of this entry, so this counts as an
        attempt.
        """
        match = _ENTRY.fullmatch(raw)
        failures = int(match[1]) + 1 if match else 0
        if match and failures < attempts:
            written = b"%d %s" % (failures, match[2])
            self._waiting.appendleft(written)
        else:
            written = raw
            if match:
                # If an object has two reasons, the last one counts.
                said = b',"reason":%s,"failed_at":%d}' % (msgspec.json.encode(reason), now)
                written = b"%d %s" % (failures, match[2][:-1] + said)
            self._dead.append(written)
            self.counts["dead"] += 1
        self._bytes += len(written) - len(raw)
        return not match or failures >= attempts

    def state(self, now: int) -> EntryQueueState:
        """Return the state of the queue."""
        return EntryQueueState(
            len(self._waiting),
            sum(map(len, self._held.values())),
            len(self._later),
            len(self._dead),
            sum(until > now for until in self._leases.values()),
            self._waiting[0] if self._waiting else None,
            self._bytes,
        )

    def page(self, place: str, start: int, count: int) -> list[bytes]:
        """Return ``count`` entries at a place, beginning at ``start``."""
        entries: Sequence[bytes] = {
            "waiting": self._waiting,
            "later": [raw for _, raw in self._later],
            "dead": self._dead,
        }[place]
        return list(islice(entries, start, start + count))

    def move(self, place: str, raw: bytes, written: bytes) -> bool:
        """Requeue an entry as ``written``, or delete it without one; return whether it existed."""
        if not self._remove(place, raw):
            return False
        self._bytes += len(written) - len(raw)
        if written:
            self._waiting.append(written)
        return True

    def _remove(self, place: str, raw: bytes) -> bool:
        if place == "later":
            kept = [each for each in self._later if each[1] != raw]
            found = len(kept) < len(self._later)
            self._later = kept
            return found
        entries = self._waiting if place == "waiting" else self._dead
        if raw not in entries:
            return False
        entries.remove(raw)
        return True
