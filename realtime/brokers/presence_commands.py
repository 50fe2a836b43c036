"""Builds commands about channel members for Redis, and parses the replies.

Each node writes its own members once and holds one lease for all of them, so nothing is renewed per
client. When the lease expires, other nodes remove its members. A node whose members were removed
although it is alive, or whose Redis was replaced, starts again under a new name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from redis import exceptions

from realtime.brokers.bounds import MEMBERS_KEPT_SECONDS, PRESENCE_LOT
from realtime.brokers.script import Args, Script
from realtime.core.members import (
    CHANGES_BYTES,
    CHANGES_LIMIT,
    LEASE_SECONDS,
    MEMBERS_LIMIT,
    Headcount,
    LeaseReply,
    MemberUpdate,
    TooManyMembers,
    checked_info,
)
from realtime.core.partitions import WHOLE
from realtime.errors import BrokerUnavailable, EnvelopeError

if TYPE_CHECKING:
    from realtime.core.partitions import Partition

_CLIENT = re.compile(rb"[0-9A-Za-z._-]{1,64}")  # of all wire protocols; no escaping in JSON


class PresenceScripts(NamedTuple):
    """The scripts of the commands about members."""

    change: Script
    read: Script
    headcount: Script
    lease: Script
    sweep: Script


SCRIPTS = PresenceScripts(
    Script("presence.lua", "presence_change.lua"),
    Script("presence.lua", "presence_read.lua"),
    Script("presence.lua", "presence_count.lua"),
    # Allowed when Redis is full, so that nodes keep their leases and departed members are removed.
    Script("presence.lua", "presence_lease.lua", allow_oom=True),
    Script("presence.lua", "presence_sweep.lua", allow_oom=True),
)


class PartitionLease(NamedTuple):
    """The reply about a node's lease in one partition of a cluster."""

    history: bytes
    """Identifies the history of writes that has the node's members; empty if none has them."""
    gone: tuple[str, ...]
    """As in `LeaseReply`."""


class PresenceCommands:
    """Builds commands and reads replies for one partition of one prefix."""

    def __init__(self, prefix: str, partition: Partition = WHOLE) -> None:
        self._keys = f"{prefix}:{{{partition.tag}}}:"
        self.scripts = PresenceScripts(*[script.of(partition) for script in SCRIPTS])
        """The scripts that the commands call."""
        self._nodes = f"{self._keys}nodes"

    def change(self, node: str, update: MemberUpdate) -> Args:
        """Return the command that writes joins and leaves of a channel."""
        come = [member for member in update.changes.values() if member is not None]
        gone = [client for client, member in update.changes.items() if member is None]
        fixed: Args = (
            *(node, update.channel, f"{self._keys}ch:{update.channel}"),
            *("1" if update.is_announced else "0", "1" if update.has_members else "0"),
            *(MEMBERS_KEPT_SECONDS, CHANGES_LIMIT, CHANGES_BYTES, len(come)),
        )
        keys = (*self._of(update.channel), self._at(node))
        members = [text for member in come for text in member]
        return ("EVALSHA", self.scripts.change.digest, 3, *keys, *fixed, *members, *gone)

    def read(self, channel: str, most_bytes: int) -> Args:
        """Return the command that reads the members of a channel, in at most ``most_bytes``."""
        here, _ = self._of(channel)
        return (
            "EVALSHA",
            self.scripts.read.digest,
            2,
            here,
            self._nodes,
            MEMBERS_LIMIT,
            most_bytes,
        )

    def count(self, channel: str) -> Args:
        """Return the command that counts the members of a channel."""
        return (
            "EVALSHA",
            self.scripts.headcount.digest,
            3,
            *self._of(channel),
            self._nodes,
            MEMBERS_LIMIT,
        )

    def lease(self, node: str, *, is_new: bool) -> Args:
        """Return the command that renews the lease of a node."""
        milliseconds = int(LEASE_SECONDS * 1000)
        flag = "1" if is_new else "0"
        return (
            "EVALSHA",
            self.scripts.lease.digest,
            1,
            self._nodes,
            node,
            milliseconds,
            flag,
            PRESENCE_LOT,
        )

    def sweep(self, node: str, *, is_leaving: bool) -> Args:
        """Return the command that removes members of a node that has expired or is leaving."""
        flag = "1" if is_leaving else "0"
        keys = (self._nodes, self._at(node))
        rest = (node, self._keys, PRESENCE_LOT, CHANGES_LIMIT, CHANGES_BYTES, flag)
        return ("EVALSHA", self.scripts.sweep.digest, 2, *keys, *rest)

    def keep(self, node: str, channels: Iterable[str]) -> list[Args]:
        """Return the commands that keep the members of channels from expiring, three per channel.

        A reply of 0 means that the key has expired.
        """
        keys = (key for channel in channels for key in (*self._of(channel), self._at(node)))
        return [("EXPIRE", key, MEMBERS_KEPT_SECONDS) for key in keys]

    def _of(self, channel: str) -> tuple[str, str]:
        return f"{self._keys}here:{channel}", f"{self._keys}users:{channel}"

    def _at(self, node: str) -> str:
        return f"{self._keys}at:{node}"


def parse_members(reply: Any) -> dict[str, str]:
    """Parse the members of a channel: infos by client.

    Raises:
        TooManyMembers: There are too many members to list.
        BrokerUnavailable: Redis refused.
    """
    _refuse(reply)
    if isinstance(reply, int):
        raise TooManyMembers(f"{reply} members are too many to list: use presence_stats")
    found: dict[str, str] = {}
    for client, info in zip(reply[::2], reply[1::2], strict=True):
        try:
            if _CLIENT.fullmatch(client):
                found[client.decode()] = checked_info(info)
        except EnvelopeError:
            continue  # not written by this service
    return found


def parse_headcount(reply: Any) -> Headcount:
    """Parse the number of members of a channel.

    Raises:
        BrokerUnavailable: Redis refused.
    """
    _refuse(reply)
    return Headcount(*map(int, reply))


def parse_lease_reply(reply: Any) -> LeaseReply:
    """Parse the reply to `PresenceCommands.lease`.

    Raises:
        BrokerUnavailable: Redis refused.
    """
    _refuse(reply)
    known, *gone = reply
    return LeaseReply(known == b"1", tuple(name.decode() for name in gone))


def parse_partition_lease(reply: Any) -> PartitionLease:
    """Parse the reply to `PresenceCommands.lease` in a partition of a cluster.

    Raises:
        BrokerUnavailable: Redis refused.
    """
    _refuse(reply)
    known, *gone = reply
    return PartitionLease(known if known != b"0" else b"", tuple(name.decode() for name in gone))


def refuse_errors(replies: Sequence[Any]) -> None:
    """Raise `BrokerUnavailable` if Redis has refused any of the commands."""
    for reply in replies:
        _refuse(reply)


def _refuse(reply: Any) -> None:
    if isinstance(reply, exceptions.RedisError):
        raise BrokerUnavailable(f"Redis: {reply}")
