"""The question to all nodes which connections they have, and how their answers become one page.

Pages are sorted by client id. Ids are random, so a cursor stays valid: connections that open or
close between two pages neither shift nor repeat the others. No socket and no clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import merge
from itertools import islice
from typing import NamedTuple

import msgspec

PAGE_LIMIT = 1000
"""Maximum number of connections in one page."""
PAGE_DEFAULT = 100
NAMES_LIMIT = 100
"""Maximum number of channels listed for one connection."""
ANSWER_BYTES = 1024 * 1024
"""A node stops its answer after this size, so that long lists of channels need more pages."""
SLICE = 64
"""Connections to describe before yielding to other work: 20 µs each, with a hundred channels; one
with more counts as several."""


class ConnectionQuery(msgspec.Struct, frozen=True, omit_defaults=True):
    """The connections that are wanted; empty filters match all."""

    user: str = ""
    channel: str = ""
    after: str = ""
    """The last client id of the previous page."""
    limit: int = PAGE_DEFAULT
    names: bool = False
    """Whether the channels of each connection are listed."""


class ListedConnection(msgspec.Struct, frozen=True, omit_defaults=True):
    """One connection of a node."""

    client: str
    user: str
    """Empty for an anonymous client."""
    transport: str
    connected_at: int
    """Seconds since 1970."""
    num_channels: int
    outbox_bytes: int
    """Bytes that wait because the client reads slowly."""
    is_congested: bool
    """Whether nothing more is written to it until it has read something."""
    channels: tuple[str, ...] | None = None
    """At most `NAMES_LIMIT`, sorted; None if nobody asked."""


class NodeConnections(msgspec.Struct):
    """The answer of one node: its part of the page, sorted by client id."""

    uid: str
    name: str
    connections: list[ListedConnection]
    has_more: bool = False


class ConnectionAtNode(NamedTuple):
    """A connection in a page, and its node."""

    uid: str
    node_name: str
    connection: ListedConnection


class ConnectionPage(NamedTuple):
    """A page of the connections of all nodes."""

    connections: list[ConnectionAtNode]
    has_more: bool


_encode = msgspec.json.Encoder().encode
_query = msgspec.json.Decoder(ConnectionQuery).decode
_answer = msgspec.json.Decoder(NodeConnections).decode


def encode_query(query: ConnectionQuery) -> str:
    """Encode a query for `realtime.core.survey.Question`."""
    return _encode(query).decode()


def decode_query(text: str) -> ConnectionQuery | None:
    """Decode a query; None if it is not one that this version understands."""
    try:
        query = _query(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    return query if 1 <= query.limit <= PAGE_LIMIT else None


class AnswerBuilder:
    """Builds the answer of a node, connection by connection, in the order of client ids."""

    def __init__(self, uid: str, name: str) -> None:
        """Start an answer of the node with this id and name."""
        self._answer = NodeConnections(uid, name, [])
        self._bytes = 0

    def add(self, connection: ListedConnection) -> bool:
        """Add a connection; return False, without adding it, if the answer is full.

        The first one always fits, so that each page makes progress.
        """
        size = len(_encode(connection))
        if self._answer.connections and self._bytes + size > ANSWER_BYTES:
            return False
        self._bytes += size
        self._answer.connections.append(connection)
        return True

    def encode(self, *, has_more: bool) -> bytes:
        """Return the answer as it is sent."""
        self._answer.has_more = has_more
        return _encode(self._answer)


def page_of(answers: Iterable[bytes], limit: int) -> ConnectionPage:
    """Merge the answers of nodes into one page; invalid ones are skipped.

    A node that has more than it sent may have connections right after its last one. So the page
    ends there, even if other nodes sent connections with greater ids.
    """
    nodes = list(_decode_answers(answers))
    ends = [node.connections[-1].client for node in nodes if node.has_more and node.connections]
    end = min(ends, default=None)
    # Merged, not sorted: each node may have sent as many as the page has room for.
    merged = merge(*map(_connections_at, nodes), key=lambda each: each.connection.client)
    found = list(islice(merged, limit + 1))
    is_cut = end is not None or len(found) > limit
    page = [each for each in found[:limit] if end is None or each.connection.client <= end]
    return ConnectionPage(page, is_cut)


def _connections_at(node: NodeConnections) -> Iterator[ConnectionAtNode]:
    return (ConnectionAtNode(node.uid, node.name, each) for each in node.connections)


def _decode_answers(answers: Iterable[bytes]) -> Iterator[NodeConnections]:
    for raw in answers:
        try:
            yield _answer(raw)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            continue
