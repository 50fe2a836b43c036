"""The limits on requests and clients, from the settings, in the form that the parts take."""

from __future__ import annotations

from typing import NamedTuple

from realtime.api.fields import Shape
from realtime.api.request import body_limit
from realtime.conf import Settings
from realtime.core.json_text import ESCAPED
from realtime.core.limits import Limits, Rate
from realtime.core.publication import Sizes
from realtime.errors import ConfigurationError
from realtime.protocols.centrifugo_commands import COMMANDS_LIMIT
from realtime.wiring.configured import once, settings

USUAL_CHANNELS = 128
"""Channels per connection; if more are allowed, frames may be larger in proportion."""
FRAME_BYTES_AT_MOST = 1024 * 1024


@once
def limits() -> Limits:
    """Return the limits on clients."""
    given = settings()
    # A returning client resubscribes to all channels at once, and may renew a token for each.
    channels = given.channels_per_connection
    commands_burst = max(given.commands_burst, 2 * channels)
    frame = given.frame_bytes * max(channels, USUAL_CHANNELS) // USUAL_CHANNELS
    # A minute's worth at once, and at least a few clients that return with all their channels.
    rate = given.subscriptions_per_address
    subscriptions = Rate(rate, max(60 * rate, 4 * channels)) if rate else None
    return Limits(
        connections=given.connections,
        connections_per_user=given.connections_per_user,
        connections_per_address=given.connections_per_address,
        subscriptions_per_address=subscriptions,
        channels_per_connection=channels,
        commands=Rate(given.commands_per_second, commands_burst),
        publications=Rate(given.publications_per_second, given.publications_burst),
        connect_seconds=given.connect_seconds,
        frame_bytes=min(frame, FRAME_BYTES_AT_MOST),
        escaped_frame_bytes=min(max(frame, ESCAPED * given.frame_bytes), FRAME_BYTES_AT_MOST),
        frame_commands=max(COMMANDS_LIMIT, commands_burst),
    )


def shape() -> Shape:
    """Return the limits of this site, as the API descriptions state them."""
    given = _settings_or_defaults()
    sizes = Sizes(given.data_bytes, given.data_depth, given.tags)
    return Shape(given.channel_characters, sizes, given.body_bytes, given.batch_bytes)


class HttpLimits(NamedTuple):
    """The limits of each request, which apply before it is parsed."""

    headers: int
    body_bytes: int
    batch_bytes: int


@once
def http_limits() -> HttpLimits:
    """Return the limits, or the defaults if the settings are invalid: a request then fails later.

    The settings of a process do not change, so neither result is outdated.
    """
    given = _settings_or_defaults()
    return HttpLimits(given.headers, given.body_bytes, given.batch_bytes)


@once
def path_prefix() -> str:
    """Return the prefix of the streams, or the default if the settings are invalid."""
    return _settings_or_defaults().path_prefix


def body_bytes(api_method: str) -> int:
    """Return the maximum size of a request body for a method of the HTTP API."""
    given = http_limits()
    return body_limit(api_method, given.body_bytes, given.batch_bytes)


def _settings_or_defaults() -> Settings:
    """Return the settings, or the defaults if they are invalid; a request then fails later."""
    try:
        return settings()
    except ConfigurationError:
        return Settings()


def largest_body_bytes() -> int:
    """Return the maximum size of any request body, so that a server can reject larger ones."""
    given = settings()
    return max(given.body_bytes, given.batch_bytes, 2 * limits().frame_bytes + 1024)
