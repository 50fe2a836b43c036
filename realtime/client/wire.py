"""The messages of Centrifugo's JSON protocol that `session` needs.

Unknown fields are ignored, so a newer service may add some.
"""

from __future__ import annotations

from typing import Any

import msgspec

DEFAULT_URL = "ws://127.0.0.1:8000/connection/websocket"
"""The WebSocket of a service with default settings on this machine."""


class ErrorReply(msgspec.Struct):
    """A command was refused."""

    code: int
    message: str = ""
    temporary: bool = False


class ConnectReply(msgspec.Struct):
    """The reply to `connect`."""

    ping: int = 0


class SubscribeReply(msgspec.Struct):
    """The position from which publications arrive: a reply to `subscribe`, or a push."""

    epoch: str
    offset: int = 0


class MessagePush(msgspec.Struct):
    """Data for the user that belongs to no channel."""

    data: Any


class PublicationPush(msgspec.Struct):
    """A publication; without an epoch, the epoch is unchanged."""

    data: Any
    offset: int
    epoch: str | None = None
    tags: dict[str, str] = {}


class GapPush(msgspec.Struct):
    """Publications of a channel that the service could not deliver."""

    epoch: str
    to: int | None
    first: int = msgspec.field(name="from")
    reason: str = "unknown"


class StatePush(msgspec.Struct):
    """Whether the node, or a channel, is live."""

    live: bool
    reason: str | None = None


class EndReason(msgspec.Struct):
    """The reason why a subscription or the connection ends."""

    code: int
    reason: str = ""


class Push(msgspec.Struct):
    """A message without a command, about a channel or about the connection."""

    channel: str | None = None
    pub: PublicationPush | None = None
    gap: GapPush | None = None
    state: StatePush | None = None
    subscribe: SubscribeReply | None = None
    unsubscribe: EndReason | None = None
    message: MessagePush | None = None
    disconnect: EndReason | None = None


class ServerMessage(msgspec.Struct):
    """One line of a frame: the reply to a command, or a push."""

    id: int = 0
    error: ErrorReply | None = None
    connect: ConnectReply | None = None
    subscribe: SubscribeReply | None = None
    push: Push | None = None
