"""The positions of the channels that a page shows: on its request, for the template tags."""

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
    """Return the positions that were read for the page of a request; None has none."""
    return cast("Known", getattr(request, ATTRIBUTE, {}))


def note_positions(request: Any, read: Known) -> None:
    """Keep positions for the page; an earlier one of a channel stays."""
    setattr(request, ATTRIBUTE, {**read, **positions_of(request)})
