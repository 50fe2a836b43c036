"""Builds commands about a user's connections from the fields of a request.

Methods and fields are Centrifugo's; those of its fields that have no meaning here are refused as
unknown.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeGuard

from realtime.api.fields import (
    BLOCK_SECONDS,
    BLOCK_USER,
    CLIENT_LIMIT,
    CODES,
    DISCONNECT,
    LATEST,
    REASON_BYTES,
    REFRESH,
    SUBSCRIBE,
    UNBLOCK_USER,
    UNSUBSCRIBE,
)
from realtime.api.request import refuse_unknown
from realtime.core.codes import FORCE_DISCONNECT, Close
from realtime.core.identity import USER_LIMIT
from realtime.core.node_commands import (
    BlockUser,
    DisconnectUser,
    NodeCommand,
    RefreshUser,
    SubscribeUser,
    UnsubscribeUser,
)
from realtime.errors import InvalidData

if TYPE_CHECKING:
    from realtime.api.items import Rules


def disconnect(fields: dict[str, Any], rules: Rules) -> DisconnectUser:
    """Read the fields of a `disconnect`.

    Raises:
        InvalidData: A field is unknown or invalid.
    """
    refuse_unknown(fields, DISCONNECT.names)
    code, reason = _close(fields.get("disconnect"))
    return DisconnectUser(read_user(fields), read_client_id(fields), code=code, reason=reason)


def block_user(fields: dict[str, Any], rules: Rules) -> BlockUser:
    """Read the fields of a `block_user`.

    Raises:
        InvalidData: A field is unknown or invalid, or the block would have ended already.
    """
    refuse_unknown(fields, BLOCK_USER.names)
    user, until, seconds = read_user(fields), fields.get("until"), fields.get("seconds")
    if (until is None) == (seconds is None):
        raise InvalidData("give either until or seconds", field="until")
    now = int(time.time())
    if seconds is not None:
        if not _is_number(seconds, range(1, BLOCK_SECONDS + 1)):
            raise InvalidData(f"must be a number from 1 to {BLOCK_SECONDS}", field="seconds")
        return BlockUser(user, now + seconds)
    if not _is_number(until, range(now + 1, LATEST)):
        raise InvalidData("must be whole seconds since 1970, in the future", field="until")
    return BlockUser(user, until)


def unblock_user(fields: dict[str, Any], rules: Rules) -> BlockUser:
    """Read the field of an `unblock_user`; errors as for `block_user`."""
    refuse_unknown(fields, UNBLOCK_USER.names)
    return BlockUser(read_user(fields), until=0)


def subscribe(fields: dict[str, Any], rules: Rules) -> SubscribeUser:
    """Read the fields of a `subscribe`.

    Raises:
        InvalidData: A field is unknown or invalid.
        InvalidName: The channel's name is invalid.
        Forbidden: The key may not use the channel.
    """
    refuse_unknown(fields, SUBSCRIBE.names)
    channel = rules.check_channel(fields.get("channel"))
    user, client = read_user(fields), read_client_id(fields)
    rules.namespaces.for_publishing(channel)
    return SubscribeUser(user, channel, client)


def unsubscribe(fields: dict[str, Any], rules: Rules) -> UnsubscribeUser:
    """Read the fields of an `unsubscribe`; errors as for `subscribe`."""
    refuse_unknown(fields, UNSUBSCRIBE.names)
    channel = rules.check_channel(fields.get("channel"))
    return UnsubscribeUser(read_user(fields), channel, read_client_id(fields))


def refresh(fields: dict[str, Any], rules: Rules) -> RefreshUser:
    """Read the fields of a `refresh`.

    Raises:
        InvalidData: A field is unknown or invalid.
    """
    refuse_unknown(fields, REFRESH.names)
    expired, expire_at = fields.get("expired"), fields.get("expire_at")
    if expired is not None and not isinstance(expired, bool):
        raise InvalidData("must be true or false", field="expired")
    if expire_at is not None and not _is_number(expire_at, range(LATEST)):
        raise InvalidData("must be whole seconds since 1970", field="expire_at")
    return RefreshUser(read_user(fields), read_client_id(fields), bool(expired), expire_at)


READERS: dict[str, Callable[[dict[str, Any], Rules], NodeCommand]] = {
    "disconnect": disconnect,
    "block_user": block_user,
    "unblock_user": unblock_user,
    "subscribe": subscribe,
    "unsubscribe": unsubscribe,
    "refresh": refresh,
}


def read_user(fields: dict[str, Any]) -> str:
    """Read the field `user`, which is required.

    Raises:
        InvalidData: It is missing or invalid.
    """
    user = fields.get("user")
    if not isinstance(user, str) or not 1 <= len(user) <= USER_LIMIT:
        raise InvalidData(f"must be the ID of a user, 1 to {USER_LIMIT} characters", field="user")
    return user


def read_client_id(fields: dict[str, Any], name: str = "client") -> str:
    """Read a field that is the id of a connection; empty without it.

    Raises:
        InvalidData: It is invalid.
    """
    client = fields.get(name)
    if client is None:
        return ""
    if not isinstance(client, str) or len(client) > CLIENT_LIMIT:
        raise InvalidData("must be the ID of a connection", field=name)
    return client


def _close(given: object) -> Close:
    if given is None:
        return FORCE_DISCONNECT
    if not isinstance(given, dict) or not given.keys() <= {"code", "reason"}:
        raise InvalidData("must be an object with code and reason", field="disconnect")
    code, reason = given.get("code"), given.get("reason")
    if not _is_number(code, CODES):
        raise InvalidData(
            f"code must be from {CODES[0]} to {CODES[-1]}; 3500 to 3999 and 4500 to 4999 are final",
            field="disconnect",
        )
    if not isinstance(reason, str) or len(reason.encode()) > REASON_BYTES:
        raise InvalidData(f"reason must have at most {REASON_BYTES} bytes", field="disconnect")
    return Close(code, reason)


def _is_number(value: object, numbers: range) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value in numbers
