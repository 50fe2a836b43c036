"""What a connection is sent, in the order of the hub: publications, gaps, and other texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from realtime.core.overflow import Overflow
    from realtime.core.positions import Gap


class Pushes(NamedTuple):
    """Publications of one channel and epoch, ``first`` to ``last``, as the text of one frame."""

    channel: str
    epoch: str
    first: int
    last: int
    text: str
    size: int
    """Bytes of the text in UTF-8."""
    newest: str
    """The push of ``last`` alone."""
    overflow: Overflow
    frame: bytes = b""
    """The text as a frame, encoded once for all connections; empty if it was not encoded."""


class GapEntry(NamedTuple):
    """A gap of one channel."""

    channel: str
    gap: Gap
    reason: str
    text: str
    overflow: Overflow

    @property
    def size(self) -> int:
        """Bytes of the text in UTF-8."""
        return len(self.text.encode())


class Undroppable(NamedTuple):
    """A reply or another text that is never dropped."""

    text: str
    size: int


Entry = Pushes | GapEntry | Undroppable
