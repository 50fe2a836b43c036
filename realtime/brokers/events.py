"""What arrives on a subscription."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import asyncio


class Message(NamedTuple):
    """A message that arrived on a channel."""

    channel: str
    raw: bytes


class Subscribed(NamedTuple):
    """The broker confirms a subscription: later publications arrive."""

    channel: str


class Unsubscribed(NamedTuple):
    """The broker confirms the end of a subscription."""

    channel: str


class ChannelsLost(NamedTuple):
    """A part of the broker is gone: later messages on these channels do not arrive.

    Each of them is confirmed again by `Subscribed`, or ends with `Unsubscribed`.
    """

    channels: tuple[str, ...]
    reason: str


Event = Message | Subscribed | Unsubscribed | ChannelsLost
Receive = Callable[[Sequence[Event]], "asyncio.Future[None] | None"]
"""Takes events; returns what is done when there is room for more, or None if there is room."""
