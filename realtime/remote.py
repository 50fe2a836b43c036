"""What a host's code does to the connections of a user, at whatever node they are.

They return when all nodes are told; each does it at once, or within ten seconds if it did not hear.
"""

from __future__ import annotations

from typing import Any

from realtime import wiring
from realtime.api.control import READERS
from realtime.api.items import Rules
from realtime.codes import FORCE_DISCONNECT
from realtime.control import Command, Message
from realtime.keys import Key
from realtime.publication import encoded
from realtime.shortcuts import id_of, refuse_event_loop

_HOST = Key("", b"")  # a host's own code may do everything


def disconnect_user(
    user: Any,
    *,
    client: str = "",
    code: int = FORCE_DISCONNECT.code,
    reason: str = FORCE_DISCONNECT.reason,
) -> None:
    """Close the connections of a user.

    Args:
        user: A user of Django, or the id of one as a string.
        client: Only the connection with this id; empty is all of them.
        code: 3000 to 4999. From 3500 to 3999 and from 4500 on the client stays away, otherwise it
            comes back.
        reason: For the client, at most 123 bytes.

    Raises:
        InvalidData: An argument is not as it must be.
        BrokerUnavailable: Certainly not told.
        OutcomeUnknown: Perhaps told; doing it again is safe.
        SynchronousOnlyOperation: An event loop runs in this thread; await the one with an ``a``.
    """
    _tell(_disconnect(user, client, code, reason))


async def adisconnect_user(
    user: Any,
    *,
    client: str = "",
    code: int = FORCE_DISCONNECT.code,
    reason: str = FORCE_DISCONNECT.reason,
) -> None:
    """Do it from async code; everything else as `disconnect_user`."""
    await wiring.tell_nodes(_disconnect(user, client, code, reason))


def subscribe_user(user: Any, channel: str, *, client: str = "") -> None:
    """Let a user's connections listen to a channel, whether they asked or may ask.

    It holds for the connections that are here now. Arguments and errors as for `disconnect_user`.

    Raises:
        InvalidName: There can be no such channel.
    """
    _tell(_command("subscribe", user, client, channel=channel))


async def asubscribe_user(user: Any, channel: str, *, client: str = "") -> None:
    """Do it from async code; everything else as `subscribe_user`."""
    await wiring.tell_nodes(_command("subscribe", user, client, channel=channel))


def unsubscribe_user(user: Any, channel: str, *, client: str = "") -> None:
    """End a user's subscriptions to a channel; everything else as `subscribe_user`."""
    _tell(_command("unsubscribe", user, client, channel=channel))


async def aunsubscribe_user(user: Any, channel: str, *, client: str = "") -> None:
    """Do it from async code; everything else as `unsubscribe_user`."""
    await wiring.tell_nodes(_command("unsubscribe", user, client, channel=channel))


def message_user(user: Any, data: Any, *, client: str = "") -> None:
    """Tell a user's connections something that is on no channel (SDKs: the event ``message``).

    It holds for the connections that are here now, and counts nothing: who must be told what he
    missed listens to a channel. Arguments and errors as for `disconnect_user`.

    Raises:
        InvalidData: data cannot be JSON.
        TooLarge: data has more than 64 KiB.
    """
    _tell(_message(user, data, client))


async def amessage_user(user: Any, data: Any, *, client: str = "") -> None:
    """Do it from async code; everything else as `message_user`."""
    await wiring.tell_nodes(_message(user, data, client))


def _message(user: Any, data: Any, client: str) -> Command:
    checked = _command("refresh", user, client)
    text = encoded(data, limit=wiring.settings().data_bytes).decode()
    return Message(checked.user, text, client)


def _disconnect(user: Any, client: str, code: int, reason: str) -> Command:
    return _command("disconnect", user, client, disconnect={"code": code, "reason": reason})


def _command(method: str, user: Any, client: str, **fields: Any) -> Command:
    """Make the command by the rules of the HTTP API."""
    given = {"user": id_of(user), "client": client, **fields}
    return READERS[method](given, Rules(_HOST, wiring.namespaces()))


def _tell(command: Command) -> None:
    refuse_event_loop("this would block the event loop here: await the function with an a before")
    wiring.tell_nodes_sync(command)
