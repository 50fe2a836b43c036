"""Presence: the members of a channel, and announcements of joins and leaves.

A *member* is one subscribed connection; several tabs of one user are one user with several members.
Joins and leaves have no offsets: a count makes up for those that were not announced one by one, and
a client that needs the names asks again. No socket and no clock: time is an argument.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from realtime.errors import EnvelopeError, RequestError

MEMBERS_LIMIT = 10_000
"""Members of one channel that one answer names: a megabyte and a half."""
MEMBERS_BYTES = 16 * 1024 * 1024
"""Maximum size of that answer, as read from the broker for the server's own requests."""
ANSWER_BYTES = 512 * 1024
"""Maximum size of the answer to a client; stock clients reject frames over 1 MiB for good."""
CHANGES_LIMIT = 50
"""Joins and leaves of one channel that one message names; any more are only counted."""
CHANGES_BYTES = 512 * 1024
"""Maximum size of one such message: few members fit if each carries 4 KiB of information."""
PUSHES_PER_SECOND = 10_000
"""Pushes of joins and leaves per channel and node, one per change and listener; above it, a count
is sent."""
PUSHES_BURST = 20_000
LEASE_SECONDS = 6.0
"""How long the members of a killed node remain listed."""
LEASE_RENEWAL_SECONDS = 2.0
"""How often a node renews its lease and looks for nodes whose lease has expired."""
UNKNOWN_COUNT = -1
"""Joins and leaves were missed, and their number is not known."""

PREFIX = b"members "
"""Starts a message about members, where an envelope starts with its version."""
_INFO = re.compile(r'\{"user":')


class Member(NamedTuple):
    """One connection on a channel."""

    client: str
    user: str
    info: str
    """Client, user and the site's information about them, as Centrifugo's ``ClientInfo``: compact
    JSON."""


class Headcount(NamedTuple):
    """The number of members of a channel."""

    clients: int
    users: int
    """Distinct users; all anonymous clients count as one."""


class Changes(NamedTuple):
    """Joins and leaves on a channel."""

    joined: tuple[str, ...]
    """The ``ClientInfo`` of each member that joined."""
    left: tuple[str, ...]
    untold: int
    """The number of joins and leaves that are not listed here."""
    headcount: Headcount
    """The number of members afterwards."""


class LeaseReply(NamedTuple):
    """The result of renewing a node's lease."""

    is_known: bool
    """Whether its members still count; otherwise the node must register them again."""
    gone: tuple[str, ...]
    """Nodes whose lease has expired."""


class MemberUpdate(NamedTuple):
    """What a node reports about the members of one channel."""

    channel: str
    changes: Mapping[str, Member | None]
    """By client; None means that the client left."""
    is_announced: bool
    """Whether joins and leaves are announced to other clients."""
    has_members: bool
    """Whether the node still has members there."""


class TooManyMembers(RequestError):
    """The channel has too many members to list them: use presence_stats."""

    code = "too_many_members"


class _ChangesMessage(msgspec.Struct, forbid_unknown_fields=True):
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


_decode_message = msgspec.json.Decoder(_ChangesMessage).decode
_info = msgspec.json.Decoder(_Info).decode


def decode_changes(raw: bytes) -> Changes:
    """Parse a message about members, which anyone with access to Redis may have sent.

    Raises:
        EnvelopeError: The bytes do not have exactly our format.
    """
    if len(raw) > 2 * CHANGES_BYTES:
        limit = 2 * CHANGES_BYTES
        raise EnvelopeError(
            f"a message of joins and leaves has {len(raw)} bytes; the limit is {limit}"
        )
    try:
        message = _decode_message(raw[len(PREFIX) :].decode())
        joined, left = _infos(message.joined), _infos(message.left)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise EnvelopeError(str(error)) from error
    headcount = Headcount(max(0, message.num_clients), max(0, message.num_users))
    return Changes(joined, left, max(0, message.untold), headcount)


def _infos(given: tuple[msgspec.Raw, ...]) -> tuple[str, ...]:
    return tuple(checked_info(bytes(each)) for each in given)


def checked_info(raw: bytes) -> str:
    """Return the ``ClientInfo`` of a member after checking its format.

    Raises:
        EnvelopeError: It does not have the format that we write.
    """
    try:
        text = raw.decode()
        _info(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise EnvelopeError(str(error)) from error
    if "\n" in text or not _INFO.match(text):
        raise EnvelopeError("the client info of a member is malformed")
    return text


def encode_members(infos: Mapping[str, str]) -> str:
    """Return members by client as one JSON object."""
    # Client ids are our own UUIDs and infos are JSON, so joining them is encoding.
    return "{" + ",".join([f'"{client}":{info}' for client, info in infos.items()]) + "}"


class AnnouncementThrottle:
    """Limits how fast joins and leaves of one channel are announced, by their cost in pushes.

    A token bucket of pushes: each change goes to each listener, so a thousand members who join
    within a second would cause a million pushes. Above the limit only the count is sent, once a
    second.
    """

    __slots__ = ("_at", "_pushes", "headcount", "untold")

    def __init__(self, now: float) -> None:
        """Start with a full bucket."""
        self._at = now
        self._pushes = float(PUSHES_BURST)
        self.untold = 0
        """Changes to report as a count; `UNKNOWN_COUNT` if their number is not known."""
        self.headcount: Headcount | None = None
        """The latest; None if it must be requested."""

    def admits(self, changes: Changes, listeners: int, now: float) -> bool:
        """Return whether to announce these one by one; otherwise they are added to `untold`."""
        self.headcount = changes.headcount
        news = len(changes.joined) + len(changes.left)
        if self.untold != UNKNOWN_COUNT:
            self.untold += changes.untold
        self._pushes = min(PUSHES_BURST, self._pushes + (now - self._at) * PUSHES_PER_SECOND)
        self._at = now
        if news * listeners > self._pushes:
            if self.untold != UNKNOWN_COUNT:
                self.untold += news
            return False
        self._pushes -= news * listeners
        return news > 0

    def note_loss(self) -> None:
        """Record that an unknown number of changes was missed."""
        self.untold, self.headcount = UNKNOWN_COUNT, None

    def note_count_sent(self) -> None:
        """Record that the count was sent."""
        self.untold = 0
