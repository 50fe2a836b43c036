"""Who is on a channel, and what is told of those who come and go.

A *member* is one connection that is subscribed; several tabs of one user are one user with several
members. Joins and leaves have no offsets: what was not told of them one by one is made good by a
count, and whoever needs the names asks again. No socket and no clock: time is an argument.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from realtime.errors import EnvelopeError, RequestError

MEMBERS_LIMIT = 10_000
"""Members of one channel that are named at once: a megabyte and a half."""
MEMBERS_BYTES = 16 * 1024 * 1024
"""Of these, as read from the broker for the server's own questions."""
ANSWER_BYTES = 512 * 1024
"""The same for a client's question; stock clients refuse frames over 1 MiB for good."""
CHANGES_LIMIT = 50
"""Joins and leaves of one channel that travel by name in one message; more are only counted."""
CHANGES_BYTES = 512 * 1024
"""Of one such message: members that are described by 4 KiB each are few."""
PUSHES_PER_SECOND = 10_000
"""Of joins and leaves of one channel at one node, that is of each to each; beyond it, a count."""
PUSHES_BURST = 20_000
LEASE_SECONDS = 6.0
"""How long a node that was killed has members."""
BEAT_SECONDS = 2.0
"""How often a node says that it lives, and looks for those that do not."""
UNKNOWN = -1
"""So many joins and leaves were not told that nobody knows how many."""

PREFIX = b"members "
"""How a message about members begins, where an envelope begins with its version."""
_INFO = re.compile(r'\{"user":')


class Member(NamedTuple):
    """One connection on a channel."""

    client: str
    user: str
    info: str
    """Both, and what the site says about them, as Centrifugo's ``ClientInfo``: compact JSON."""


class Headcount(NamedTuple):
    """How many are on a channel."""

    clients: int
    users: int
    """Different ones; all that have no identity count as one."""


class Changes(NamedTuple):
    """What the members of a channel did."""

    joined: tuple[str, ...]
    """Infos of those who came."""
    left: tuple[str, ...]
    untold: int
    """Joins and leaves that are not among these."""
    headcount: Headcount
    """After them."""


class Beat(NamedTuple):
    """What a node learns when it renews its lease."""

    is_known: bool
    """Whether its members still count; it has to begin anew where they do not."""
    gone: tuple[str, ...]
    """Nodes whose lease has ended."""


class Roll(NamedTuple):
    """What a node has to say about the members of one channel."""

    channel: str
    changes: Mapping[str, Member | None]
    """By client; None has gone."""
    is_told: bool
    """Whether other clients hear of it."""
    has_members: bool
    """Whether the node has any left there."""


class TooManyMembers(RequestError):
    """There are too many members to name them: ask presence_stats how many."""

    code = "too_many_members"


class _Told(msgspec.Struct, forbid_unknown_fields=True):
    num_clients: int
    num_users: int
    joined: tuple[msgspec.Raw, ...]
    left: tuple[msgspec.Raw, ...]
    untold: int


class _Info(msgspec.Struct, forbid_unknown_fields=True):
    user: str
    client: str
    conn_info: msgspec.Raw = msgspec.Raw()
    chan_info: msgspec.Raw = msgspec.Raw()


_told = msgspec.json.Decoder(_Told).decode
_info = msgspec.json.Decoder(_Info).decode


def opened(raw: bytes) -> Changes:
    """Take what came on a channel apart, which anybody with access to Redis may have sent.

    Raises:
        EnvelopeError: The bytes have not exactly our shape.
    """
    if len(raw) > 2 * CHANGES_BYTES:
        raise EnvelopeError("too large for joins and leaves")
    try:
        told = _told(raw[len(PREFIX) :].decode())
        joined, left = _infos(told.joined), _infos(told.left)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise EnvelopeError(str(error)) from error
    headcount = Headcount(max(0, told.num_clients), max(0, told.num_users))
    return Changes(joined, left, max(0, told.untold), headcount)


def _infos(given: tuple[msgspec.Raw, ...]) -> tuple[str, ...]:
    return tuple(checked_info(bytes(each)) for each in given)


def checked_info(raw: bytes) -> str:
    """Return what is told of a member, as we wrote it.

    Raises:
        EnvelopeError: We did not.
    """
    try:
        text = raw.decode()
        _info(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise EnvelopeError(str(error)) from error
    if "\n" in text or not _INFO.match(text):
        raise EnvelopeError("not who is on a channel")
    return text


def listed(infos: Mapping[str, str]) -> str:
    """Return members by client as one JSON object."""
    # Ids of clients are UUIDs of ours, and infos are JSON: joining them is encoding.
    return "{" + ",".join([f'"{client}":{info}' for client, info in infos.items()]) + "}"


class Crier:
    """How fast joins and leaves of one channel are told, by what that costs: each to each.

    A token bucket of pushes. A thousand members who come in one second would be a million pushes;
    so of most of them only the count is told, once a second.
    """

    __slots__ = ("_at", "_pushes", "headcount", "untold")

    def __init__(self, now: float) -> None:
        """Begin with a full bucket."""
        self._at = now
        self._pushes = float(PUSHES_BURST)
        self.untold = 0
        """What is to be told as a count; `UNKNOWN` where nobody knows how many."""
        self.headcount: Headcount | None = None
        """The newest one; None where it has to be asked for."""

    def may_tell(self, changes: Changes, listeners: int, now: float) -> bool:
        """Tell whether these may be told one by one; otherwise they count as untold."""
        self.headcount = changes.headcount
        news = len(changes.joined) + len(changes.left)
        if self.untold != UNKNOWN:
            self.untold += changes.untold
        self._pushes = min(PUSHES_BURST, self._pushes + (now - self._at) * PUSHES_PER_SECOND)
        self._at = now
        if news * listeners > self._pushes:
            if self.untold != UNKNOWN:
                self.untold += news
            return False
        self._pushes -= news * listeners
        return news > 0

    def lost(self) -> None:
        """Nobody knows what happened meanwhile."""
        self.untold, self.headcount = UNKNOWN, None

    def told(self) -> None:
        """All is told."""
        self.untold = 0
