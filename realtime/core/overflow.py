"""The policies for an outbox that is full."""

from __future__ import annotations

from enum import StrEnum


class Overflow(StrEnum):
    """What happens to a connection's queued publications when its outbox is full."""

    GAP = "gap"
    """They are dropped, and the client is told exactly which ones."""
    LATEST = "latest"
    """The newest of each channel is kept; the client is told exactly which ones were dropped."""
    DISCONNECT = "disconnect"
    """The connection is closed with 3008, as in Centrifugo."""
