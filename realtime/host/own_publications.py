"""The positions of what one request publishes, for the header of its response.

A page that changes something hears of it twice: by the response, and live. By the position it
knows the live one as its own, also after a reconnect, and can wait for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from realtime.core.publication import Publication, Receipt

CHANNELS_LIMIT = 10
"""Channels in one header, at most 3 KiB; of each, the last publication."""
_collected: ContextVar[dict[str, str] | None] = ContextVar("realtime_published", default=None)


@contextmanager
def collect_positions() -> Iterator[dict[str, str]]:
    """Collect positions until the end of the block, as ``epoch offset`` by channel."""
    positions: dict[str, str] = {}
    token = _collected.set(positions)
    try:
        yield positions
    finally:
        _collected.reset(token)


def note_published(publication: Publication, receipt: Receipt) -> None:
    """Note what was published, if the positions are being collected."""
    positions = _collected.get()
    if positions is None:
        return
    channel = publication.channel
    if channel in positions or len(positions) < CHANNELS_LIMIT:
        positions[channel] = f"{receipt.epoch} {receipt.offset}"
