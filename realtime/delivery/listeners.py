"""The listeners of a channel: the connections that get its publications, and writing to them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from realtime.connection.entries import Entry, GapEntry, Pushes
from realtime.core.codes import SERVER_ERROR

if TYPE_CHECKING:
    from realtime.connection.writer import Writer
    from realtime.core.meters import ChannelMeter

logger = logging.getLogger(__name__)


class Listener:
    """One connection on one channel, from subscribe to unsubscribe."""

    __slots__ = ("active", "hears_joins", "writer")

    def __init__(self, writer: Writer, *, hears_joins: bool = False) -> None:
        self.writer = writer
        self.active = True
        self.hears_joins = hears_joins


def write_to(listeners: Sequence[Listener], entry: Entry) -> int:
    """Write an entry to all listeners that are still active; return how many."""
    reached = len(listeners)
    frame = entry.frame if isinstance(entry, Pushes) else b""
    size = entry.size
    for listener in listeners:
        if listener.active:
            try:
                if frame:
                    listener.writer.write_encoded(entry, frame, size)  # type: ignore[arg-type]
                else:
                    listener.writer.write_entry(entry)
            except Exception:  # the hub's outermost loop: a failure must not affect others
                logger.exception("delivering to a connection failed; closing it")
                listener.writer.end(SERVER_ERROR)
        else:
            reached -= 1
    return reached


def count_entry(meter: ChannelMeter, entry: Entry, listeners: int) -> None:
    """Count an entry once, for all listeners together."""
    if isinstance(entry, Pushes):
        meter.count_deliveries(entry.last - entry.first + 1, entry.size, listeners)
    elif isinstance(entry, GapEntry):
        meter.count_gap(entry.gap, entry.reason, listeners)
