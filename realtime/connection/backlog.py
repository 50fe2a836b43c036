"""How far a client is behind, for operators."""

from __future__ import annotations

from typing import TYPE_CHECKING

from realtime.connection.entries import Undroppable

if TYPE_CHECKING:
    from realtime.connection.writer import Writer


def backlog_of(writer: Writer) -> tuple[int, str]:
    """Return how many bytes wait in an outbox, and the channel of what has waited longest."""
    if not (outbox := writer.outbox):
        return 0, ""
    channel = "" if isinstance(outbox.first, Undroppable) else outbox.first.channel
    return outbox.bytes + outbox.undroppable_bytes, channel
