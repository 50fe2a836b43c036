"""How much of each thing is allowed, and a count of how often that was not enough.

Says when something is too much and never what follows from it. No clock here: time is an argument,
in seconds of a monotonic clock. What a publication may hold stands in `realtime.publication`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import NamedTuple

from realtime.codes import TOO_MANY_COMMANDS, TOO_MANY_REQUESTS, Close, Refusal

TELL_SECONDS = 60.0
"""Between two lines in the log about the same limit, however often it is reached."""

ADDRESSES_LIMIT = 10_000
"""Addresses whose new subscriptions are counted; 3 MB at most."""


class Rate(NamedTuple):
    """So many in a second in the long run, and so many at once."""

    per_second: float
    burst: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the clients of a node may take. Defaults and precedents stand in `realtime.conf`."""

    connections: int
    connections_per_user: int
    """0: as many as there are; so below."""
    connections_per_address: int
    channels_per_connection: int
    commands: Rate
    """Of one connection."""
    publications: Rate
    """Of one connection."""
    connect_seconds: float
    """From accept to `connect`."""
    subscriptions_per_address: Rate | None = None
    """New ones, over all connections of one address; None: as many as there are."""
    frame_bytes: int = 80 * 1024
    """Of one frame from a client, before `connect` or beside a stream."""
    escaped_frame_bytes: int = 480 * 1024
    """Of one frame after `connect`: the same, each character escaped (`realtime.publication`)."""
    frame_commands: int = 1024
    """In one frame; an SDK that comes back subscribes to all its channels in one."""


class Crowd:
    """Counts the connections of a node: all of them, and those of each address."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.connections = 0
        """From before accept to the end of the application."""
        self._by_address: Counter[str] = Counter()

    def enter(self, address: str) -> str | None:
        """Count a connection in; return the name of the limit that forbids it, if one does."""
        if self.connections >= self._limits.connections:
            return "connections"
        limit = self._limits.connections_per_address
        if limit and address:  # the empty one is nobody's in particular
            if self._by_address[address] >= limit:
                return "connections_per_address"
            self._by_address[address] += 1
        self.connections += 1
        return None

    def leave(self, address: str) -> None:
        """Count out a connection that was let in."""
        self.connections -= 1
        if address in self._by_address:
            self._by_address[address] -= 1
            if not self._by_address[address]:
                del self._by_address[address]

    @property
    def is_empty(self) -> bool:
        """Whether nobody is counted any more."""
        return not (self.connections or self._by_address)


def address_of(client: Sequence[object] | None) -> str:
    """Return as whom an ASGI ``client`` is counted; empty where there is no address.

    An IPv6 address by its first 64 bits: a household has at least so many, and may use them all
    (RFC 6177). An IPv4 address behind ``::ffff:`` is that IPv4 address.
    """
    host = str(client[0]) if client else ""
    try:
        address = ip_address(host)
    except ValueError:
        return host[:64]  # a trusted proxy may call it by a name
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is None:
            return f"{IPv6Address(int(address) >> 64 << 64)}/64"
        address = address.ipv4_mapped
    return str(address)


class Bucket:
    """A token bucket: over any t seconds it lets at most burst + per_second · t pass.

    It counts what it has spent since it was last full, so nothing is summed up that is not a whole
    number: a thousand years of single tokens leave no rounding behind.
    """

    __slots__ = ("_full_at", "_rate", "_spent")

    def __init__(self, rate: Rate) -> None:
        """Begin full."""
        self._rate = rate
        self._full_at = 0.0
        self._spent = 0

    def take(self, now: float, tokens: int = 1) -> bool:
        """Take so many tokens; False, and none are taken, if there are fewer."""
        came = (now - self._full_at) * self._rate.per_second
        if self._spent <= came:
            self._full_at, self._spent, came = now, 0, 0.0
        if self._spent + tokens > self._rate.burst + came:
            return False
        self._spent += tokens
        return True

    def pay(self, now: float, tokens: int) -> None:
        """Take tokens for what is done already; those that are missing are owed."""
        if not self.take(now, tokens):
            self._spent += tokens


class Subscriptions:
    """Limits the new subscriptions of each address, however often it reconnects.

    It remembers a bounded number of addresses and forgets the one that was seen longest ago.
    """

    def __init__(self, rate: Rate | None) -> None:
        self._rate = rate
        self._buckets: dict[str, Bucket] = {}  # the one that was seen last is last

    def take(self, address: str, count: int, now: float) -> bool:
        """Count new subscriptions; False if they are too many, and none of them is counted."""
        if self._rate is None or not address or not count:
            return True
        bucket = self._buckets.pop(address, None) or Bucket(self._rate)
        self._buckets[address] = bucket
        if len(self._buckets) > ADDRESSES_LIMIT:
            del self._buckets[next(iter(self._buckets))]
        return bucket.take(now, count)

    def __len__(self) -> int:
        return len(self._buckets)


class Throttle:
    """How fast one client may talk."""

    __slots__ = ("_commands", "_publications", "_rate", "_refusals")

    def __init__(self, commands: Rate, publications: Rate) -> None:
        self._commands = Bucket(commands)
        self._refusals = Bucket(commands)
        self._rate = publications
        self._publications: Bucket | None = None  # most clients only listen

    def command(self, now: float, cost: int = 1) -> Refusal | Close | None:
        """Count a command; return why it is not done, if it is one too many.

        A client that keeps exceeding the limit is not just bursty: its connection is closed.

        Args:
            now: Seconds of a monotonic clock.
            cost: How many commands' work it is.
        """
        if self._commands.take(now, cost):
            return None
        return TOO_MANY_COMMANDS if self._refusals.take(now, cost) else TOO_MANY_REQUESTS

    def pay(self, now: float, cost: int) -> None:
        """Count work whose amount was not known before: later commands wait for it."""
        self._commands.pay(now, cost)

    def publication(self, now: float) -> Refusal | None:
        """Count a publication; return why it is not published, if it is one too many."""
        if self._publications is None:
            self._publications = Bucket(self._rate)
        return None if self._publications.take(now) else TOO_MANY_COMMANDS


class Reached:
    """Counts how often each limit was reached, and tells of it now and then."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        """By name of the limit, from the start of the process."""
        self._told: dict[str, tuple[int, float]] = {}

    def count(self, name: str, times: int = 1) -> None:
        """A limit was reached; a name is a word of ours, never a client's."""
        self.counts[name] += times

    def news(self, now: float) -> Iterator[tuple[str, int]]:
        """Yield the limits that were reached since they were last told of, and how often.

        Each at most once a minute, and the last time never goes untold.
        """
        for name, count in self.counts.items():
            told, at = self._told.get(name, (0, now - TELL_SECONDS))
            if count > told and now - at >= TELL_SECONDS:
                self._told[name] = (count, now)
                yield name, count - told
