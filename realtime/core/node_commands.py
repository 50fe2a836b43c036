"""Commands to all nodes about connections that any of them may have.

A command travels as a flat JSON object. It may be lost on the way, so nodes also check their
connections periodically. No socket here: transport belongs to the outer rings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from realtime.core.codes import FORCE_DISCONNECT


class DisconnectUser(NamedTuple):
    """Close connections of a user."""

    user: str
    client: str = ""
    """Only this connection; empty is all of them."""
    session: str = ""
    """Only connections from this login; empty is all of them."""
    code: int = FORCE_DISCONNECT.code
    reason: str = FORCE_DISCONNECT.reason

    @property
    def ends_session(self) -> bool:
        """Whether the login itself has ended, so that its tokens are no longer valid.

        Without a session the command only closes connections, and clients may return with their
        tokens.
        """
        return bool(self.session) and not self.client


class BlockUser(NamedTuple):
    """Close the connections of a user, and refuse new ones until a time."""

    user: str
    until: int
    """Seconds since 1970; 0 ends the block."""


class SubscribeUser(NamedTuple):
    """Subscribe connections of a user to a channel, whether they asked for it or not."""

    user: str
    channel: str
    client: str = ""


class UnsubscribeUser(NamedTuple):
    """End a user's subscription; to all channels if none is named."""

    user: str
    channel: str = ""
    client: str = ""


class RefreshUser(NamedTuple):
    """Change the expiry of a user's connections."""

    user: str
    client: str = ""
    expired: bool = False
    """They have expired: close them with 3005."""
    expire_at: int | None = None
    """Seconds since 1970; None is never."""


class SendToUser(NamedTuple):
    """Send a message to connections of a user outside of any channel."""

    user: str
    data: str
    """Compact JSON."""
    client: str = ""


class RecheckUser(NamedTuple):
    """Check whether the connections of a user are still entitled to be open."""

    user: str


NodeCommand = (
    BlockUser
    | DisconnectUser
    | SubscribeUser
    | UnsubscribeUser
    | RefreshUser
    | SendToUser
    | RecheckUser
)
_KINDS: Mapping[str, type[NodeCommand]] = {
    "disconnect": DisconnectUser,
    "block": BlockUser,
    "subscribe": SubscribeUser,
    "unsubscribe": UnsubscribeUser,
    "refresh": RefreshUser,
    "message": SendToUser,
    "recheck": RecheckUser,
}
_METHODS = {kind: method for method, kind in _KINDS.items()}


def encode_command(command: NodeCommand) -> dict[str, Any]:
    """Encode a command as the flat object that is sent."""
    return {"method": _METHODS[type(command)], **command._asdict()}


def decode_command(message: object) -> NodeCommand | None:
    """Decode a command; None if the message is not one of ours, whoever sent it."""
    if not isinstance(message, dict):
        return None
    fields = dict(message)
    kind = _KINDS.get(str(fields.pop("method", "")))
    if kind is None or not fields.keys() <= set(kind._fields):
        return None
    values = [fields.get(name, kind._field_defaults.get(name)) for name in kind._fields]
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError:
        return None
