"""Commands to the connections of a user, on whichever node they are.

They return once the command is sent; each node executes it immediately, or within ten seconds if
it was lost.
"""

from __future__ import annotations

from typing import Any

from realtime import wiring
from realtime.api.control import READERS
from realtime.api.items import Rules
from realtime.api.keys import Key
from realtime.core.codes import FORCE_DISCONNECT
from realtime.core.json_text import encode_json
from realtime.core.node_commands import NodeCommand, SendToUser
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


def _command(method: str, user: Any, client: str, **fields: Any) -> NodeCommand:
    """Build the command by the rules of the HTTP API."""
    given = {"user": id_of(user), "client": client, **fields}
    return READERS[method](given, Rules(_HOST, wiring.namespaces()))


def _send_command(command: NodeCommand) -> None:
    refuse_event_loop(AWAIT_VARIANT)
    wiring.send_node_command_sync(command)
