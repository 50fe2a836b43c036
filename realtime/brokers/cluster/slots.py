"""The questions to the nodes of a Redis Cluster, and what their replies mean.

Each node has its own idea of which master serves which slots. Each change of it has a new number,
the cluster's current epoch, so the newest of several answers is known (redis.io, "Redis cluster
specification"). The module uses no socket and no clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

from redis import exceptions

from realtime.core.partitions import PARTITIONS

if TYPE_CHECKING:
    from realtime.brokers.script import Args
    from realtime.core.partitions import Partition
    from realtime.core.redis_url import Address

ASK_FOR_SLOTS: Sequence[Args] = (("CLUSTER", "INFO"), ("CLUSTER", "SLOTS"))
"""The commands for a node, whose replies `parse_slots` takes."""
ROLE: Args = ("ROLE",)
ASKING: Args = ("ASKING",)
"""Precedes a command that was redirected with ASK."""

_LATER = (
    exceptions.TryAgainError,
    exceptions.ClusterDownError,
    exceptions.ReadOnlyError,
    exceptions.MasterDownError,
    exceptions.BusyLoadingError,
)
# Error replies for which redis-py has no class, or redis-py 5.2 only in its own cluster client.
_LATER_WORDS = ("TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN", "NOREPLICAS")


class SlotMap(NamedTuple):
    """What one node says about the cluster."""

    is_ok: bool
    """Whether the node takes commands; after a partition, a minority does not."""
    epoch: int
    owners: Mapping[int, Address]
    """The masters, by the number of the partition."""
    nodes: tuple[Address, ...]
    """All nodes, which can be asked next time."""


class RefusalKind(Enum):
    """What to do with a command that a node has refused."""

    MOVED = "moved"
    """Another master has the slot."""
    ASK = "ask"
    """Another master has this key already; ask it once."""
    LATER = "later"
    """Nobody can execute it now."""


class NodeRefusal(NamedTuple):
    """Why a node has certainly not executed a command, and where to send it."""

    kind: RefusalKind
    address: Address | None
    """None if it is not known."""


def parse_slots(replies: Sequence[Any], asked: Address) -> SlotMap:
    """Parse the replies of a node.

    Args:
        replies: The replies to `ASK_FOR_SLOTS`.
        asked: The address of the node: it may not know its own.

    Raises:
        RedisError: It refuses to answer, or is no node of a cluster.
    """
    for reply in replies:
        if isinstance(reply, exceptions.RedisError):
            raise reply
    info, ranges = replies
    facts = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
    owners: dict[int, Address] = {}
    nodes: dict[Address, None] = {}
    for first, last, *servers in ranges:
        addresses = [_address(server, asked) for server in servers]
        nodes.update(dict.fromkeys(addresses))
        for partition in PARTITIONS:
            if int(first) <= partition.slot <= int(last) and addresses:
                owners[partition.number] = addresses[0]
    return SlotMap(
        facts.get("cluster_state") == "ok",
        int(facts.get("cluster_current_epoch", 0)),
        owners,
        tuple(nodes),
    )


def _address(server: Sequence[Any], asked: Address) -> Address:
    host, port = server[0], int(server[1])
    name = host.decode() if host else ""
    # "" or "?": the node does not know its address, so it is the one that was asked.
    return (name if name and name != "?" else asked[0], port)


def newest(maps: Sequence[SlotMap], errors: Sequence[Exception]) -> SlotMap:
    """Return the newest answer of nodes that take commands, else the newest of all.

    Raises:
        RedisError: No node has answered.
    """
    if not maps:
        reason = f": {errors[0]}" if errors else " in time"
        raise exceptions.ConnectionError(f"no node of the cluster answered{reason}")
    return max(maps, key=lambda each: (each.is_ok, each.epoch, len(each.owners)))


class SlotOwners:
    """The master of each partition: the last map, and what redirections have said since.

    A redirection that arrives while the nodes are asked may be newer than their answer, so it
    stays. If it is not, that master redirects in turn.
    """

    def __init__(self) -> None:
        self.nodes: tuple[Address, ...] = ()
        """All nodes of the last map."""
        self._map: Mapping[int, Address] = {}
        self._moved: dict[int, Address] = {}
        self._asked_about: dict[int, Address] = {}

    def of(self, partition: Partition) -> Address | None:
        """Return the address of the master of a partition, if it is known."""
        return self._moved.get(partition.number) or self._map.get(partition.number)

    def masters(self) -> set[Address]:
        """Return the addresses of all masters that are known."""
        # Copied in one step: another thread may note a move.
        return {*self._map.values(), *self._moved.copy().values()}

    def note_moved(self, partition: Partition, address: Address) -> bool:
        """Record what a redirection says; return whether it is news."""
        if self.of(partition) == address:
            return False
        self._moved[partition.number] = address
        return True

    def note_question(self) -> None:
        """Record that the nodes are being asked: the answer is newer than what is known now."""
        self._asked_about = self._moved.copy()

    def note_answer(self, found: SlotMap) -> bool:
        """Record the answer; return whether a master may have changed."""
        before = {**self._map, **self._moved}
        self._map, self.nodes = found.owners, found.nodes
        asked_about, moved = self._asked_about, self._moved.copy()
        self._moved = {n: each for n, each in moved.items() if asked_about.get(n) != each}
        return before != {**self._map, **self._moved}


def refusal_of(errors: Sequence[Exception], asked: Address) -> NodeRefusal | None:
    """Return where to send what a node has refused; None if it is refused for good.

    Args:
        errors: The error replies.
        asked: The address of the node, which leaves its own host out.
    """
    for error in errors:
        word, *rest = _text(error).split(" ")
        if word in ("MOVED", "ASK") and len(rest) == 2:  # the slot, and host:port
            host, _, port = rest[1].rpartition(":")
            # "" or "?", as in `_address`.
            address = (host if host not in ("", "?") else asked[0], int(port))
            return NodeRefusal(RefusalKind[word], address)
        if isinstance(error, _LATER) or _text(error).startswith(_LATER_WORDS):
            return NodeRefusal(RefusalKind.LATER, None)
    return None


def _text(error: Exception) -> str:
    """Return the text of an error reply, with the first word."""
    word = "MOVED " if isinstance(error, exceptions.MovedError) else "ASK "
    return f"{word}{error.args[0]}" if isinstance(error, exceptions.AskError) else str(error)
