"""The channels that an API key may use: patterns, matched segment by segment.

``*`` stands for one segment, a final ``**`` for one or more: ``orders:*`` matches ``orders:7``,
not ``orders:7:lines``.
"""

from __future__ import annotations

from collections.abc import Iterable

ONE, REST = "*", "**"

Pattern = tuple[str, ...]
"""The segments of a pattern, split at colons."""


class Patterns:
    """All patterns of a key, as one tree of segments.

    Prefixes that patterns share are compared once. `/api/channels` matches 10,000 names against the
    patterns; comparing a hundred patterns one by one blocked a node's event loop for seconds.
    """

    __slots__ = ("_root",)

    def __init__(self, patterns: Iterable[Pattern]) -> None:
        self._root = _Node()
        for pattern in patterns:
            node = self._root
            for segment in pattern:
                if segment == REST:
                    node.is_open = True
                    break
                node = node.children.setdefault(segment, _Node())
            else:
                node.is_end = True

    def match(self, channel: str) -> bool:
        """Tell whether one of the patterns matches a channel."""
        nodes = [self._root]
        for segment in channel.split(":"):
            if any(node.is_open for node in nodes):
                return True
            children = [
                node.children[wanted]
                for node in nodes
                for wanted in (segment, ONE)
                if wanted in node.children
            ]
            if not children:
                return False
            nodes = children
        return any(node.is_end for node in nodes)


class _Node:
    """A node of the tree: the segments that may follow here."""

    __slots__ = ("children", "is_end", "is_open")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.is_end = False
        self.is_open = False
        """Whether a pattern has ``**`` here, so that any further segments match."""
