"""Commands to the connections of a user, on whichever node they are.

They return once the command is sent; each node executes it immediately, or within ten seconds if
it was lost.
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

from realtime import wiring
from realtime.api.control import READERS
from realtime.api.items import Rules
from realtime.api.keys import Key
from realtime.core.codes import FORCE_DISCONNECT
from realtime.core.json_text import encode_json
from realtime.core.node_commands import NodeCommand, SendToUser
from realtime.errors import InvalidData
from realtime.host.publishing import AWAIT_VARIANT, refuse_event_loop
from realtime.host.user_tokens import id_of

_HOST = Key("", b"")  # the host's own code may do everything


def disconnect_user(
    user: Any,
    *,
    client: str = "",
    code: int = FORCE_DISCONNECT.code,
    reason: str = FORCE_DISCONNECT.reason,
) -> None:
    """Close the connections of a user.

    Args:
        user: A Django user, or a user id as a string.
        client: Only the connection with this id; empty is all of them.
        code: 3000 to 4999. From 3500 to 3999 and from 4500 on the client stays away, otherwise it
            reconnects.
        reason: For the client, at most 123 bytes.

    Raises:
        InvalidData: An argument is invalid.
        BrokerUnavailable: Certainly not sent.
        OutcomeUnknown: Possibly sent; repeating it is safe.
        SynchronousOnlyOperation: An event loop runs in this thread; await `adisconnect_user` there.
    """
    _send_command(_disconnect(user, client, code, reason))


async def adisconnect_user(
    user: Any,
    *,
    client: str = "",
    code: int = FORCE_DISCONNECT.code,
    reason: str = FORCE_DISCONNECT.reason,
) -> None:
    """Like `disconnect_user`, for async code."""
    await wiring.send_node_command(_disconnect(user, client, code, reason))


def block_user(user: Any, until: datetime | int) -> None:
    """Close the connections of a user, and refuse new ones on all nodes until a time.

    Nodes that start later know the block, as long as Redis keeps its data. Clients stay away: they
    see the code 3503. A user who is blocked already is blocked until the new time.

    Args:
        user: A Django user, or a user id as a string. An anonymous client has none.
        until: An aware datetime, or seconds since 1970; in the future.

    Raises:
        InvalidData: An argument is invalid.
        TooManyBlocks: 10,000 users are blocked already.
        BrokerUnavailable: Certainly not blocked.
        OutcomeUnknown: Possibly blocked; repeating it is safe.
        SynchronousOnlyOperation: An event loop runs in this thread; await `ablock_user` there.
    """
    _send_command(_block(user, until))


async def ablock_user(user: Any, until: datetime | int) -> None:
    """Like `block_user`, for async code."""
    await wiring.send_node_command(_block(user, until))


def unblock_user(user: Any) -> None:
    """Accept the connections of a user again; errors as for `block_user`."""
    _send_command(_read("unblock_user", user))


async def aunblock_user(user: Any) -> None:
    """Like `unblock_user`, for async code."""
    await wiring.send_node_command(_read("unblock_user", user))


def subscribe_user(user: Any, channel: str, *, client: str = "") -> None:
    """Subscribe a user's connections to a channel, whether they asked for it or may subscribe.

    Applies to current connections only. Arguments and errors are those of `disconnect_user`.

    Raises:
        InvalidName: The channel's name is invalid, or its namespace is not configured.
    """
    _send_command(_command("subscribe", user, client, channel=channel))


async def asubscribe_user(user: Any, channel: str, *, client: str = "") -> None:
    """Like `subscribe_user`, for async code."""
    await wiring.send_node_command(_command("subscribe", user, client, channel=channel))


def unsubscribe_user(user: Any, channel: str, *, client: str = "") -> None:
    """End a user's subscriptions to a channel; otherwise like `subscribe_user`."""
    _send_command(_command("unsubscribe", user, client, channel=channel))


async def aunsubscribe_user(user: Any, channel: str, *, client: str = "") -> None:
    """Like `unsubscribe_user`, for async code."""
    await wiring.send_node_command(_command("unsubscribe", user, client, channel=channel))


def message_user(user: Any, data: Any, *, client: str = "") -> None:
    """Send a user's connections a message outside of any channel (SDKs: the event ``message``).

    Applies to current connections only, and has no offset: clients that must learn what they missed
    need a channel. Arguments and errors are those of `disconnect_user`.

    Raises:
        InvalidData: data cannot be encoded as JSON.
        TooLarge: data has more than 64 KiB.
    """
    _send_command(_message(user, data, client))


async def amessage_user(user: Any, data: Any, *, client: str = "") -> None:
    """Like `message_user`, for async code."""
    await wiring.send_node_command(_message(user, data, client))


def _message(user: Any, data: Any, client: str) -> NodeCommand:
    checked = _command("refresh", user, client)
    text = encode_json(data, limit=wiring.settings().data_bytes).decode()
    return SendToUser(checked.user, text, client)


def _disconnect(user: Any, client: str, code: int, reason: str) -> NodeCommand:
    return _command("disconnect", user, client, disconnect={"code": code, "reason": reason})


def _block(user: Any, until: datetime | int) -> NodeCommand:
    if isinstance(until, datetime):
        if until.tzinfo is None:
            raise InvalidData("must be an aware datetime", field="until")
        until = math.ceil(until.timestamp())
    return _read("block_user", user, until=until)


def _command(method: str, user: Any, client: str, **fields: Any) -> NodeCommand:
    return _read(method, user, client=client, **fields)


def _read(method: str, user: Any, **fields: Any) -> NodeCommand:
    """Build the command by the rules of the HTTP API."""
    return READERS[method]({"user": id_of(user), **fields}, Rules(_HOST, wiring.namespaces()))


def _send_command(command: NodeCommand) -> None:
    refuse_event_loop(AWAIT_VARIANT)
    wiring.send_node_command_sync(command)
