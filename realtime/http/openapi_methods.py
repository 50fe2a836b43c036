"""The methods of the HTTP API, as OpenAPI describes them: texts, fields, results and errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from realtime.api import fields

if TYPE_CHECKING:
    from realtime.api.fields import Fields

ANY_REASON = (
    *("bad_request", "invalid_json", "invalid_data", "token_in_url", "unauthorized", "forbidden"),
    *("csrf_failed", "method_not_allowed", "request_timeout", "too_large"),
    *("unsupported_media_type", "broker_unavailable", "configuration", "session_unavailable"),
    "outcome_unknown",
)
"""Reasons of errors that every method may return."""
_PUBLISHES = (
    *("invalid_channel", "invalid_event", "invalid_tags", "invalid_idempotency_key"),
    *("invalid_fallback", "idempotency_conflict", "rate_limited", "queue_full"),
)


class Method(NamedTuple):
    """The description of a method of the API."""

    summary: str
    about: str
    fields: Fields | None
    """None if the body is not an object with fields."""
    result: str
    """The name of the schema of its response."""
    reasons: tuple[str, ...] = ()
    """Reasons of errors, in addition to `ANY_REASON`."""
    group: str = "Publishing"
    takes_idempotency_key: bool = False


DESCRIBED_METHODS: dict[str, Method] = {
    "publish": Method(
        "Publish",
        "Publish to a channel. All current subscribers, on every node, receive the publication.",
        fields.PUBLISH,
        "Published",
        _PUBLISHES,
        takes_idempotency_key=True,
    ),
    "broadcast": Method(
        "Publish to many channels",
        "Publish the same data to up to 100 channels in one step, with one result each.",
        fields.BROADCAST,
        "PublishedMany",
        _PUBLISHES,
        takes_idempotency_key=True,
    ),
    "batch": Method(
        "Run many commands",
        "Run up to 100 publish and broadcast commands, in order and in one step.",
        fields.BATCH,
        "Replies",
        ("invalid_idempotency_key", "rate_limited", "queue_full"),
    ),
    "events": Method(
        "Publish CloudEvents",
        "Publish CloudEvents 1.0: in structured mode, in binary mode (attributes in `ce-…` "
        "headers), or up to 100 events in a batch.",
        None,
        "PublishedEvents",
        (*_PUBLISHES, "invalid_attribute"),
    ),
    "disconnect": Method(
        "Disconnect a user",
        "Close a user's connections on every node.",
        fields.DISCONNECT,
        "Nothing",
        group="Users",
    ),
    "block_user": Method(
        "Block a user",
        "Close a user's connections on every node, and refuse new ones until a time.",
        fields.BLOCK_USER,
        "Nothing",
        ("too_many_blocks",),
        group="Users",
    ),
    "unblock_user": Method(
        "Unblock a user",
        "Accept a user's connections again.",
        fields.UNBLOCK_USER,
        "Nothing",
        group="Users",
    ),
    "subscribe": Method(
        "Subscribe a user",
        "Subscribe a user's connections to a channel, from the server side.",
        fields.SUBSCRIBE,
        "Nothing",
        ("invalid_channel",),
        group="Users",
    ),
    "unsubscribe": Method(
        "Unsubscribe a user",
        "End a user's subscriptions to a channel.",
        fields.UNSUBSCRIBE,
        "Nothing",
        ("invalid_channel",),
        group="Users",
    ),
    "refresh": Method(
        "Refresh a user",
        "Change when a user's connections expire.",
        fields.REFRESH,
        "Nothing",
        group="Users",
    ),
    "position": Method(
        "Positions",
        "Read the positions of channels. A page that reads the position before its data, and "
        "subscribes since that position, detects every publication in between.",
        fields.POSITION,
        "Positions",
        ("invalid_channel",),
        group="Inspection",
    ),
    "presence": Method(
        "Presence",
        "List the clients subscribed to a channel on all nodes.",
        fields.PRESENCE,
        "Members",
        ("invalid_channel", "too_many_members"),
        group="Inspection",
    ),
    "presence_stats": Method(
        "Presence statistics",
        "Count the connections and the distinct users subscribed to a channel.",
        fields.PRESENCE,
        "Numbers",
        ("invalid_channel",),
        group="Inspection",
    ),
    "channels": Method(
        "Active channels",
        "List the channels with subscribers, and the number of connections on each.",
        fields.CHANNELS,
        "Channels",
        ("too_many_channels",),
        group="Inspection",
    ),
    "connections": Method(
        "Connections",
        "List the connections of a user, of a channel, or all, sorted by client ID. The next page "
        "begins after the last one.",
        fields.CONNECTIONS,
        "Connections",
        ("invalid_channel",),
        group="Inspection",
    ),
    "info": Method(
        "Node information",
        "Show the state of the nodes and of the fallback queue, for monitoring.",
        fields.INFO,
        "Info",
        group="Inspection",
    ),
}
