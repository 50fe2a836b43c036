"""The events that a `ListeningClient` reports to its caller."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from realtime.errors import RealtimeError

if TYPE_CHECKING:
    from realtime.client.tracker import MissedPublications
    from realtime.core.positions import Position


class ListeningError(RealtimeError):
    """The service refuses to let us listen, and would refuse again."""

    code = "listening"


class Published(NamedTuple):
    """A publication arrived."""

    channel: str
    position: Position
    data: Any
    tags: dict[str, str]


class GapFound(NamedTuple):
    """Some publications did not arrive."""

    channel: str
    missed: MissedPublications


class Live(NamedTuple):
    """From now on, each publication on the channels arrives or is reported as missed."""

    positions: dict[str, Position]


class NotLive(NamedTuple):
    """The service cannot reach Redis; nothing arrives until it can."""

    reason: str


class MessageReceived(NamedTuple):
    """Data arrived that was sent to the user, outside of any channel."""

    data: Any


class Reconnecting(NamedTuple):
    """The connection is gone; the next attempt starts in ``seconds``."""

    reason: str
    seconds: float


Event = Published | GapFound | MessageReceived | Live | NotLive | Reconnecting
