"""Rate and connection limits, and a count of how often each was reached.

This module decides whether something exceeds a limit, never what follows from it. No clock here:
time is an argument, in seconds of a monotonic clock. The limits on the content of a publication are
in `realtime.core.publication`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence, Sized
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import NamedTuple

from realtime.core.codes import (
    TOO_MANY_COMMANDS,
    TOO_MANY_REQUESTS,
    Close,
    Refusal,
)
from realtime.core.json_text import ESCAPED

REPORT_SECONDS = 60.0
"""Minimum time between two log lines about the same limit, however often it is reached."""

BYTES_PER_COMMAND = 16 * 1024
"""Data that a client sends or requests costs one more command for each block of this size."""

PUBLISH_BYTES = ESCAPED * 80 * 1024
"""Maximum size of a request body: data of 64 KiB, tags, options, names, all escaped."""
MANY_BYTES = 1024 * 1024
"""Maximum size of a request body with several publications."""

REMEMBERED_HOSTS = 1024
"""Addresses that are not parsed again; parsing takes 4 µs."""
REMEMBERED_HOST_CHARACTERS = 64

ADDRESSES_LIMIT = 10_000
"""Addresses whose new subscriptions are counted; at most 3 MB."""
BUDGETS_LIMIT = 10_000
"""Budgets of connections that have ended; at most 4 MB."""


class Rate(NamedTuple):
    """A rate limit: sustained events per second, and a burst."""

    per_second: float
    burst: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits on a node's clients. Defaults and precedents are in `realtime.conf`."""

    connections: int
    connections_per_user: int
    """0 is unlimited; likewise below."""
    connections_per_address: int
    channels_per_connection: int
    commands: Rate
    """Per connection."""
    publications: Rate
    """Per connection."""
    connect_seconds: float
    """Time from accept to `connect`."""
    subscriptions_per_address: Rate | None = None
    """New subscriptions, over all connections of an address; None is unlimited."""
    frame_bytes: int = 80 * 1024
    """Size of one frame from a client, before `connect` or alongside a stream."""
    escaped_frame_bytes: int = 480 * 1024
    """Size of one frame after `connect`: the same with every character escaped
    (`core.publication`)."""
    frame_commands: int = 1024
    """Commands per frame; a reconnecting SDK resubscribes to all its channels in one frame."""


class ConnectionCounter:
    """Counts a node's connections: in total, and per address."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.connections = 0
        """Counted from before accept until the connection has ended."""
        self._by_address: Counter[str] = Counter()

    def enter(self, address: str) -> str | None:
        """Count a new connection, or return the name of the limit that forbids it."""
        if self.connections >= self._limits.connections:
            return "connections"
        limit = self._limits.connections_per_address
        if limit and address:  # connections without an address are counted in the total only
            if self._by_address[address] >= limit:
                return "connections_per_address"
            self._by_address[address] += 1
        self.connections += 1
        return None

    def leave(self, address: str) -> None:
        """Remove a connection that `enter` counted."""
        self.connections -= 1
        if address in self._by_address:
            self._by_address[address] -= 1
            if not self._by_address[address]:
                del self._by_address[address]

    @property
    def is_empty(self) -> bool:
        """Whether no connection is counted."""
        return not (self.connections or self._by_address)


def address_of(client: Sequence[object] | None) -> str:
    """Return the key under which an ASGI ``client`` is counted; empty if there is no address.

    An IPv6 address counts by its first 64 bits: a household has at least a /64 and may use all of
    it (RFC 6177). An IPv4-mapped address (``::ffff:``) counts as that IPv4 address.
    """
    host = str(client[0]) if client else ""
    parse = _key_of_host if len(host) <= REMEMBERED_HOST_CHARACTERS else _key_of_host.__wrapped__
    return parse(host)


@lru_cache(REMEMBERED_HOSTS)
def _key_of_host(host: str) -> str:
    try:
        address = ip_address(host)
    except ValueError:
        return host[:64]  # a trusted proxy may pass a host name
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is None:
            return f"{IPv6Address(int(address) >> 64 << 64)}/64"
        address = address.ipv4_mapped
    return str(address)


class Bucket:
    """A token bucket: over any t seconds it admits at most burst + per_second · t.

    It counts the tokens spent since it was last full, so it only ever sums whole numbers: a
    thousand years of single tokens accumulate no rounding error.
    """

    __slots__ = ("_full_at", "_rate", "_spent")

    def __init__(self, rate: Rate) -> None:
        """Start full."""
        self._rate = rate
        self._full_at = 0.0
        self._spent = 0

    def take(self, now: float, tokens: int = 1) -> bool:
        """Take tokens; return False, and take none, if there are too few."""
        came = (now - self._full_at) * self._rate.per_second
        if self._spent <= came:
            self._full_at, self._spent, came = now, 0, 0.0
        if self._spent + tokens > self._rate.burst + came:
            return False
        self._spent += tokens
        return True

    def pay(self, now: float, tokens: int) -> None:
        """Take tokens for work already done; the balance may become negative."""
        if not self.take(now, tokens):
            self._spent += tokens

    def is_in_debt(self, now: float) -> bool:
        """Tell whether the balance is negative."""
        return self._spent > self._rate.burst + (now - self._full_at) * self._rate.per_second

    def is_full(self, now: float) -> bool:
        """Tell whether it is as good as new."""
        return self._spent <= (now - self._full_at) * self._rate.per_second


class Subscriptions:
    """Limits new subscriptions per address, however often clients reconnect.

    Remembers a bounded number of addresses and evicts the least recently seen.
    """

    def __init__(self, rate: Rate | None) -> None:
        self._rate = rate
        self._buckets: dict[str, Bucket] = {}  # least recently seen first

    def take(self, address: str, count: int, now: float) -> bool:
        """Count new subscriptions; return False, and count none, if there are too many."""
        if self._rate is None or not address or not count:
            return True
        bucket = self._buckets.pop(address, None) or Bucket(self._rate)
        self._buckets[address] = bucket
        if len(self._buckets) > ADDRESSES_LIMIT:
            del self._buckets[next(iter(self._buckets))]
        return bucket.take(now, count)

    def __len__(self) -> int:
        return len(self._buckets)


class PublicationBudgets:
    """Gives each connection a budget of publications, however often clients reconnect.

    A budget that is not full when its connection ends is kept, and the next connection of that
    address continues with it. Otherwise a client could publish a whole burst with each connection,
    and each new channel costs Redis a counter. Remembers a bounded number of budgets and evicts
    those of the address that was seen least recently.
    """

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self._left: dict[str, list[Bucket]] = {}  # least recently seen first
        self._count = 0

    def take(self, address: str) -> Bucket:
        """Return the budget of a connection that publishes for the first time."""
        left = self._left.get(address)
        if not left:
            return Bucket(self.rate)
        self._count -= 1
        budget = left.pop()
        if not left:
            del self._left[address]
        return budget

    def give_back(self, address: str, budget: Bucket, now: float) -> None:
        """Keep the budget of a connection that has ended, unless it is full or has no address."""
        if not address or budget.is_full(now):
            return
        left = self._left.pop(address, [])
        left.append(budget)
        self._left[address] = left
        self._count += 1
        while self._count > BUDGETS_LIMIT:
            oldest = next(iter(self._left))
            self._count -= len(self._left.pop(oldest))

    def __len__(self) -> int:
        return self._count


class Throttle:
    """The rate limits of one client."""

    __slots__ = ("_commands", "_refusals")

    def __init__(self, commands: Rate) -> None:
        self._commands = Bucket(commands)
        self._refusals = Bucket(commands)

    def command(self, now: float, cost: int = 1) -> Refusal | Close | None:
        """Count a command; return why it is rejected if it exceeds the limit.

        A client that keeps exceeding the limit is not just bursty: its connection is closed.

        Args:
            now: Seconds of a monotonic clock.
            cost: How many commands it counts as.
        """
        if self._commands.take(now, cost):
            return None
        return TOO_MANY_COMMANDS if self._refusals.take(now, cost) else TOO_MANY_REQUESTS

    def pay(self, now: float, cost: int) -> None:
        """Count work whose amount was not known in advance: later commands wait for it."""
        self._commands.pay(now, cost)

    def is_in_debt(self, now: float) -> bool:
        """Tell whether work that was done has not been paid for yet."""
        return self._commands.is_in_debt(now)


def cost_of(data: Sized) -> int:
    """Return how many commands this data counts as: one, plus one for each 16 KiB."""
    return 1 + len(data) // BYTES_PER_COMMAND


class LimitCounts:
    """Counts how often each limit was reached, and reports it at intervals."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        """By name of the limit, since the start of the process."""
        self._reported: dict[str, tuple[int, float]] = {}

    def count(self, name: str, times: int = 1) -> None:
        """Count a limit that was reached; names come from our code, never from a client."""
        self.counts[name] += times

    def news(self, now: float) -> Iterator[tuple[str, int]]:
        """Yield each limit that was reached since it was last reported, and how often.

        Each is reported at most once a minute, and the last occurrence is always reported
        eventually.
        """
        for name, count in self.counts.items():
            reported, at = self._reported.get(name, (0, now - REPORT_SECONDS))
            if count > reported and now - at >= REPORT_SECONDS:
                self._reported[name] = (count, now)
                yield name, count - reported
