"""The positions of channels, for a host's code: read one before the data that a page shows.

A page that then subscribes *since* that position detects every publication in between (ADR-0032).
"""

from __future__ import annotations

from collections.abc import Iterable

from realtime import wiring
from realtime.api.fields import MANY_ITEMS
from realtime.core.names import checked_channel
from realtime.core.positions import Position, by_channel
from realtime.errors import TooLarge
from realtime.host.publishing import AWAIT_VARIANT, refuse_event_loop


def position(*channels: str) -> dict[str, Position]:
    """Return how far channels have counted, in one round trip to Redis.

    Read it before the data that it stands for. A position that is too old makes a subscriber fetch
    once more than necessary; one that is too new hides a change.

    Args:
        channels: Names, at most 100.

    Returns:
        Their positions by name: ``epoch`` and ``offset``.

    Raises:
        InvalidName: A name is invalid, or its namespace is not configured.
        TooLarge: There are too many channels.
        BrokerError: Redis cannot be reached (`BrokerUnavailable`), or did not answer in time
            (`OutcomeUnknown`); a retry is safe.
        SynchronousOnlyOperation: An event loop runs in this thread; await `aposition` there.
    """
    refuse_event_loop(AWAIT_VARIANT)
    names = readable_channels(channels)
    return by_channel(names, wiring.read_positions_sync(names)) if names else {}


async def aposition(*channels: str) -> dict[str, Position]:
    """Like `position`, for async code."""
    names = readable_channels(channels)
    return by_channel(names, await wiring.read_positions(names)) if names else {}


def readable_channels(channels: Iterable[object]) -> list[str]:
    """Return different, valid names of channels; errors are those of `position`."""
    names = list(dict.fromkeys(map(checked_channel, channels)))
    if len(names) > MANY_ITEMS:
        raise TooLarge("the call", len(names), MANY_ITEMS, unit="channels")
    for name in names:
        wiring.namespaces().for_publishing(name)
    return [*names]
