"""The members of channels inside the process; the same steps as the scripts `presence_*.lua`.

Each node writes its own members once and holds one lease for all of them. Times are milliseconds
since 1970.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from itertools import islice
from typing import NamedTuple

from realtime.brokers.bounds import MEMBERS_KEPT_SECONDS, PRESENCE_LOT
from realtime.core.members import (
    CHANGES_BYTES,
    CHANGES_LIMIT,
    LEASE_SECONDS,
    MEMBERS_LIMIT,
    Headcount,
    LeaseReply,
    MemberUpdate,
    TooManyMembers,
)

Announce = Callable[[str, bytes], object]
"""Sends bytes on a channel."""


class _Listed(NamedTuple):
    node: str
    user: str
    info: str


class _Room:
    """The members of one channel."""

    __slots__ = ("ends", "members", "users")

    def __init__(self) -> None:
        self.members: dict[str, _Listed] = {}
        self.users: Counter[str] = Counter()
        self.ends = 0

    def add(self, client: str, listed: _Listed) -> bool:
        """Add a member, or replace it; return whether it is new."""
        was = self.remove(client)
        self.members[client] = listed
        self.users[listed.user] += 1
        return was is None

    def remove(self, client: str) -> _Listed | None:
        was = self.members.pop(client, None)
        if was is not None:
            self.users[was.user] -= 1
            if self.users[was.user] <= 0:
                del self.users[was.user]
        return was


class MemberRoster:
    """The members of all channels, and the leases of their nodes. No clock."""

    def __init__(self, announce: Announce) -> None:
        """Start without members.

        Args:
            announce: Sends joins and leaves to the subscribers of a channel.
        """
        self._announce = announce
        self._rooms: OrderedDict[str, _Room] = OrderedDict()  # by expiry
        self._places: dict[str, set[str]] = {}  # channels by node
        self._leases: dict[str, int] = {}

    def change(self, node: str, update: MemberUpdate, now: int) -> None:
        """Write joins and leaves of one channel, and announce them; repeating it does nothing."""
        room = self._room(update.channel, now) or _Room()
        joined, left = [], []
        for client, member in update.changes.items():
            if member is not None:
                if room.add(client, _Listed(node, member.user, member.info)):
                    joined.append(member.info)
            elif (was := room.members.get(client)) is not None and was.node == node:
                room.remove(client)
                left.append(was.info)
        self._keep(update.channel, room, now)
        places = self._places.setdefault(node, set())
        if update.has_members:
            places.add(update.channel)
        else:
            places.discard(update.channel)
        if not places:
            del self._places[node]
        if update.is_announced and (joined or left):
            self._announce_changes(update.channel, room, joined, left)

    def members(self, channel: str, most_bytes: int, now: int) -> dict[str, str]:
        """Return the members of living nodes on a channel: infos by client.

        Raises:
            TooManyMembers: There are more than 10,000, or than fit into ``most_bytes``.
        """
        room = self._room(channel, now) or _Room()
        found: dict[str, str] = {}
        size = 0
        for client, listed in room.members.items():
            if self._is_alive(listed.node, now):
                size += len(client) + len(listed.info.encode()) + 4
                found[client] = listed.info
            if size > most_bytes or len(room.members) > MEMBERS_LIMIT:
                raise TooManyMembers(
                    f"{len(room.members)} members are too many to list: use presence_stats"
                )
        return found

    def headcount(self, channel: str, now: int) -> Headcount:
        """Return the number of members of living nodes on a channel."""
        room = self._room(channel, now) or _Room()
        if len(room.members) > MEMBERS_LIMIT or all(until > now for until in self._leases.values()):
            return Headcount(len(room.members), len(room.users))
        alive = [each for each in room.members.values() if self._is_alive(each.node, now)]
        return Headcount(len(alive), len({each.user for each in alive}))

    def lease(self, node: str, now: int, *, is_new: bool) -> LeaseReply:
        """Renew the lease of a node, and return nodes whose lease has expired."""
        self._drop_expired(now)
        if not is_new and not self._leases.get(node):  # 0: it is being swept
            return LeaseReply(False, ())
        self._leases[node] = now + int(LEASE_SECONDS * 1000)
        gone = [name for name, until in self._leases.items() if until <= now]
        return LeaseReply(True, tuple(gone[:PRESENCE_LOT]))

    def sweep(self, node: str, now: int, *, is_leaving: bool) -> bool:
        """Remove some members of a node that is gone or leaving; return whether more remain."""
        if not is_leaving and self._is_alive(node, now):
            return False
        self._leases[node] = 0
        places = self._places.get(node, set())
        for channel in list(islice(places, PRESENCE_LOT)):
            places.discard(channel)
            room = self._room(channel, now)
            if room is not None:
                self._remove_node(channel, room, node)
        if places:
            return True
        self._places.pop(node, None)
        self._leases.pop(node, None)
        return False

    def keep(self, node: str, channels: Iterable[str], now: int) -> list[str]:
        """Keep the members of channels from expiring; return the channels that had expired."""
        expired = []
        for channel in channels:
            room = self._room(channel, now)
            if room is None or channel not in self._places.get(node, ()):
                expired.append(channel)
            else:
                self._keep(channel, room, now)
        return expired

    def _room(self, channel: str, now: int) -> _Room | None:
        room = self._rooms.get(channel)
        return None if room is None or room.ends <= now else room

    def _keep(self, channel: str, room: _Room, now: int) -> None:
        if not room.members:
            self._rooms.pop(channel, None)
            return
        room.ends = now + MEMBERS_KEPT_SECONDS * 1000
        self._rooms[channel] = room
        self._rooms.move_to_end(channel)

    def _drop_expired(self, now: int) -> None:
        while self._rooms and next(iter(self._rooms.values())).ends <= now:
            self._rooms.popitem(last=False)

    def _is_alive(self, node: str, now: int) -> bool:
        return self._leases.get(node, 0) > now

    def _remove_node(self, channel: str, room: _Room, node: str) -> None:
        gone = [client for client, listed in room.members.items() if listed.node == node]
        left = [listed.info for client in gone if (listed := room.remove(client)) is not None]
        if not room.members:
            self._rooms.pop(channel, None)
        if left:
            self._announce_changes(channel, room, [], left)

    def _announce_changes(
        self, channel: str, room: _Room, joined: list[str], left: list[str]
    ) -> None:
        untold, came, went = 0, ",".join(joined).encode(), ",".join(left).encode()
        if len(joined) + len(left) > CHANGES_LIMIT or len(came) + len(went) > CHANGES_BYTES:
            untold, came, went = len(joined) + len(left), b"", b""
        said = b'members {"num_clients":%d,"num_users":%d,"joined":[%s],"left":[%s],"untold":%d}'
        counts = (len(room.members), len(room.users))
        self._announce(channel, said % (*counts, came, went, untold))
