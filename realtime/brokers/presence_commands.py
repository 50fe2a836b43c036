"""What is said to Redis about members of channels, and what its answers mean.

Each node writes its own members down, once, and holds one lease for all of them: nothing has to be
renewed for each client. When the lease ends, the other nodes count its members out. A node that was
counted out although it lives, or whose Redis is another one than before, begins anew under a new
name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from redis import exceptions

from realtime.brokers.script import Args, Script
from realtime.errors import BrokerUnavailable, EnvelopeError
from realtime.membership import (
    CHANGES_BYTES,
    CHANGES_LIMIT,
    LEASE_SECONDS,
    MEMBERS_LIMIT,
    Beat,
    Headcount,
    Roll,
    TooManyMembers,
    checked_info,
)

KEPT_SECONDS = 300
"""How long members of a channel are kept whose node does not say that they are to be."""
LOT = 100
"""Channels that one sweep counts out, and ended leases that one beat returns."""

_CLIENT = re.compile(rb"[0-9a-f-]{1,64}")

CHANGE = Script("presence.lua", "presence_change.lua")
READ = Script("presence.lua", "presence_read.lua")
COUNT = Script("presence.lua", "presence_count.lua")
LEASE = Script("presence.lua", "presence_lease.lua")
SWEEP = Script("presence.lua", "presence_sweep.lua")


class PresenceCommands:
    """Builds commands and reads replies for one prefix."""

    def __init__(self, prefix: str) -> None:
        self._keys = f"{prefix}:{{0}}:"
        self._nodes = f"{self._keys}nodes"

    def change(self, node: str, roll: Roll) -> Args:
        """Return the command that writes down who came to a channel and who went."""
        come = [member for member in roll.changes.values() if member is not None]
        gone = [client for client, member in roll.changes.items() if member is None]
        fixed: Args = (
            *(node, roll.channel, f"{self._keys}ch:{roll.channel}"),
            *("1" if roll.is_told else "0", "1" if roll.has_members else "0"),
            *(KEPT_SECONDS, CHANGES_LIMIT, CHANGES_BYTES, len(come)),
        )
        keys = (*self._of(roll.channel), self._at(node))
        members = [text for member in come for text in member]
        return ("EVALSHA", CHANGE.digest, 3, *keys, *fixed, *members, *gone)

    def read(self, channel: str, most_bytes: int) -> Args:
        """Return the command that reads who is on a channel, in at most so many bytes."""
        here, _ = self._of(channel)
        return ("EVALSHA", READ.digest, 2, here, self._nodes, MEMBERS_LIMIT, most_bytes)

    def count(self, channel: str) -> Args:
        """Return the command that reads how many are on a channel."""
        return ("EVALSHA", COUNT.digest, 3, *self._of(channel), self._nodes, MEMBERS_LIMIT)

    def lease(self, node: str, *, is_new: bool) -> Args:
        """Return the command that says that a node lives."""
        milliseconds = int(LEASE_SECONDS * 1000)
        flag = "1" if is_new else "0"
        return ("EVALSHA", LEASE.digest, 1, self._nodes, node, milliseconds, flag, LOT)

    def sweep(self, node: str, *, is_leaving: bool) -> Args:
        """Return the command that counts out members of a node whose lease has ended, or ends."""
        flag = "1" if is_leaving else "0"
        keys = (self._nodes, self._at(node))
        rest = (node, self._keys, LOT, CHANGES_LIMIT, CHANGES_BYTES, flag)
        return ("EVALSHA", SWEEP.digest, 2, *keys, *rest)

    def keep(self, node: str, channels: Iterable[str]) -> list[Args]:
        """Return the commands that keep what is known of channels from being forgotten.

        The first answer of each three is 0 where it has been.
        """
        keys = (key for channel in channels for key in (*self._of(channel), self._at(node)))
        return [("EXPIRE", key, KEPT_SECONDS) for key in keys]

    def _of(self, channel: str) -> tuple[str, str]:
        return f"{self._keys}here:{channel}", f"{self._keys}users:{channel}"

    def _at(self, node: str) -> str:
        return f"{self._keys}at:{node}"


def members(reply: Any) -> dict[str, str]:
    """Read who is on a channel: infos by client.

    Raises:
        TooManyMembers: There are too many to name them.
        BrokerUnavailable: Redis refused.
    """
    _refuse(reply)
    if isinstance(reply, int):
        raise TooManyMembers(f"{reply} members are too many to name: ask presence_stats")
    found: dict[str, str] = {}
    for client, info in zip(reply[::2], reply[1::2], strict=True):
        try:
            if _CLIENT.fullmatch(client):
                found[client.decode()] = checked_info(info)
        except EnvelopeError:
            continue  # not by us
    return found


def headcount(reply: Any) -> Headcount:
    """Read how many are on a channel.

    Raises:
        BrokerUnavailable: Redis refused.
    """
    _refuse(reply)
    return Headcount(*map(int, reply))


def beat(reply: Any) -> Beat:
    """Read the answer to `PresenceCommands.lease`.

    Raises:
        BrokerUnavailable: Redis refused.
    """
    _refuse(reply)
    known, *gone = reply
    return Beat(known == b"1", tuple(name.decode() for name in gone))


def refuse_errors(replies: Sequence[Any]) -> None:
    """Raise `BrokerUnavailable` where Redis has refused one of several commands."""
    for reply in replies:
        _refuse(reply)


def _refuse(reply: Any) -> None:
    if isinstance(reply, exceptions.RedisError):
        raise BrokerUnavailable(f"Redis: {reply}")
