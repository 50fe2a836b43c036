"""The positions of the channels that a page shows, stored on its request for the template tags."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from realtime.core.positions import Position

    Known = Mapping[str, Position | None]
    """Positions by channel; None could not be read."""

ATTRIBUTE = "realtime_positions"
"""The attribute of a request with the positions for its page."""


def positions_of(request: Any) -> Known:
    """Return the positions that were read for the page of a request; empty without a request."""
    return cast("Known", getattr(request, ATTRIBUTE, {}))


def note_positions(request: Any, read: Known) -> None:
    """Store positions for the page; a position that was stored earlier takes precedence."""
    setattr(request, ATTRIBUTE, {**read, **positions_of(request)})
