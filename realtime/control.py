"""What one node may be told about connections that any node may have.

A command travels as a flat JSON object. It may get lost on the way, so a node looks at its
connections now and then all the same. No socket here: what carries it is the rim's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from realtime.codes import FORCE_DISCONNECT


class Disconnect(NamedTuple):
    """Close connections of a user."""

    user: str
    client: str = ""
    """Only this one; empty is all of them."""
    session: str = ""
    """Only those that came from this login; empty is all of them."""
    code: int = FORCE_DISCONNECT.code
    reason: str = FORCE_DISCONNECT.reason


class Subscribe(NamedTuple):
    """Let connections of a user listen to a channel, whether they asked or not."""

    user: str
    channel: str
    client: str = ""


class Unsubscribe(NamedTuple):
    """End a user's subscription; to all channels where none is named."""

    user: str
    channel: str = ""
    client: str = ""


class Refresh(NamedTuple):
    """Say anew until when the connections of a user are good."""

    user: str
    client: str = ""
    expired: bool = False
    """They are good no more: close them with 3005."""
    expire_at: int | None = None
    """Seconds since 1970; None is for ever."""


class Message(NamedTuple):
    """Tell connections of a user something that is on no channel."""

    user: str
    data: str
    """Compact JSON."""
    client: str = ""


class Recheck(NamedTuple):
    """Look whether the connections of a user are still entitled to be here."""

    user: str


Command = Disconnect | Subscribe | Unsubscribe | Refresh | Message | Recheck
_KINDS: Mapping[str, type[Command]] = {
    kind.__name__.lower(): kind
    for kind in (Disconnect, Subscribe, Unsubscribe, Refresh, Message, Recheck)
}


def sealed(command: Command) -> dict[str, Any]:
    """Return a command as the flat object that travels."""
    return {"method": type(command).__name__.lower(), **command._asdict()}


def opened(message: object) -> Command | None:
    """Return the command in what arrived; None where it is none of ours, whoever sent it."""
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
