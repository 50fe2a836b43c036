"""Centrifugo's JSON protocol, as used by the stock SDKs: encodes replies and pushes.

Source: centrifugal.dev/docs/transports/client_protocol. `centrifugo_commands` parses the commands.
Three pushes are our extensions, which stock SDKs ignore: ``gap``, ``state`` and ``presence``
(docs/protocol.md#extensions).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from realtime.protocols import (
    Call,
    Command,
    Connect,
    History,
    Ping,
    Pong,
    Presence,
    PresenceStats,
    Publish,
    Refresh,
    SubRefresh,
    Subscribe,
    Unsubscribe,
)
from realtime.protocols.centrifugo_commands import PONG as PONG
from realtime.protocols.centrifugo_commands import read as read

if TYPE_CHECKING:
    from realtime.core.codes import Close, Refusal, SubscriptionEnd
    from realtime.core.members import Headcount
    from realtime.core.positions import Gap, Position

PING = PONG
_FINAL_TEXT = b"\x81"
_write = msgspec.json.Encoder().encode


_UUID_MASK = 0xF << 76 | 0x3 << 62
_UUID_4 = 0x4 << 76 | 0x2 << 62  # the version and the variant


def client_id(bits: int) -> str:
    """Return a random UUID (RFC 9562 §5.4), the form of Centrifugo's ids."""
    bits = bits & ~_UUID_MASK | _UUID_4
    text = f"{bits:032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def opening() -> tuple[Command, ...]:
    """Return no commands: a client sends its own `Connect`."""
    return ()


def refuse_after_accept(status: int, reason: str) -> None:
    """Return None: the handshake is refused with an HTTP status."""


def frames(lines: str) -> tuple[str]:
    """Return one frame: the protocol joins lines by newlines, too."""
    return (lines,)


def wire_frames(lines: str) -> bytes:
    """Return the frame of the lines, encoded."""
    return text_frame(lines.encode())


def text_frame(payload: bytes) -> bytes:
    """Return UTF-8 text as one final WebSocket frame, unmasked (from a server), uncompressed."""
    size = len(payload)
    if size < 126:
        return b"%b%c%b" % (_FINAL_TEXT, size, payload)
    if size < 65536:
        return b"%b\x7e%b%b" % (_FINAL_TEXT, size.to_bytes(2, "big"), payload)
    return b"%b\x7f%b%b" % (_FINAL_TEXT, size.to_bytes(8, "big"), payload)


def encode_connect_reply(
    command: Connect,
    client: str,
    version: str,
    ping_seconds: int,
    ttl_seconds: int | None,
    emulated_by: tuple[str, str] | None = None,
) -> str:
    """Encode the reply to `Connect`; ``pong`` asks the client to answer our pings."""
    result = {"client": client, "version": version, "ping": ping_seconds, "pong": True}
    if emulated_by is not None:
        result["session"], result["node"] = emulated_by
    return _text({"id": command.id, "connect": result | _expiry(ttl_seconds)})


def _expiry(ttl_seconds: int | None) -> dict[str, Any]:
    return {} if ttl_seconds is None else {"expires": True, "ttl": ttl_seconds}


def encode_refresh_reply(
    command: Refresh | SubRefresh, client: str, version: str, ttl_seconds: int | None
) -> str:
    """Encode the reply to a `Refresh` or `SubRefresh` with a valid token."""
    if isinstance(command, SubRefresh):
        return _text({"id": command.id, "sub_refresh": _expiry(ttl_seconds)})
    result = {"client": client, "version": version}
    return _text({"id": command.id, "refresh": result | _expiry(ttl_seconds)})


def encode_subscribe_reply(
    command: Subscribe,
    position: Position | None,
    ttl_seconds: int | None,
    *,
    has_all: bool | None = None,
) -> str:
    """Encode the reply to `Subscribe`."""
    result = {} if position is None else _position(position)
    if has_all is not None:
        result |= {"was_recovering": True, "recovered": has_all}
    return _text({"id": command.id, "subscribe": result | _expiry(ttl_seconds)})


def encode_subscribe_push(channel: str, position: Position) -> str:
    """Encode the push that starts a server-side subscription."""
    return _text({"push": {"channel": channel, "subscribe": _position(position)}})


def _position(position: Position) -> dict[str, Any]:
    """Return the fields of a position, as stock SDKs report it.

    ``positioned`` without ``recoverable``, so SDKs never request history.
    """
    return {
        "positioned": True,
        "recoverable": False,
        "epoch": position.epoch,
        "offset": position.offset,
    }


_METHODS = {Unsubscribe: "unsubscribe", Publish: "publish", Ping: "ping"}


def encode_empty_reply(command: Command) -> str:
    """Encode the empty reply to `Unsubscribe`, `Publish` or `Ping`."""
    return _text({"id": command[0], _METHODS[type(command)]: {}})  # type: ignore[misc]


def encode_history_reply(command: History, position: Position) -> str:
    """Encode the reply to `History`: an empty one, with the position."""
    fields = {"offset": position.offset, "epoch": position.epoch}
    return _text({"id": command.id, "history": fields})


def encode_presence_reply(command: Presence, members: str) -> str:
    """Encode the reply to `Presence`."""
    return f'{{"id":{command.id},"presence":{{"presence":{members}}}}}'


def encode_presence_stats_reply(command: PresenceStats, headcount: Headcount) -> str:
    """Encode the reply to `PresenceStats`."""
    return _text({"id": command.id, "presence_stats": _numbers(headcount)})


def _numbers(headcount: Headcount) -> dict[str, Any]:
    return {"num_clients": headcount.clients, "num_users": headcount.users}


def encode_call_reply(command: Call, data: str) -> str:
    """Encode the reply to `Call`."""
    return f'{{"id":{command.id},"rpc":{{"data":{data}}}}}'


def encode_refusal(command: Command | None, refusal: Refusal) -> str:
    """Encode the error reply; it has no id if the command had no readable one."""
    error: dict[str, object] = {"code": refusal.code, "message": refusal.message}
    if refusal.temporary:
        error["temporary"] = True
    command_id = 0 if command is None or isinstance(command, Pong) else command.id
    return _text({"id": command_id, "error": error} if command_id else {"error": error})


def encode_publication(channel: str, position: Position, body: str, *, first_of_epoch: bool) -> str:
    """Encode the push of a publication.

    The body of an envelope is a validated JSON object, and channel names need no escaping, so the
    push is joined as text, which takes a third of the time of encoding it again.
    """
    epoch, offset = position
    epoch_field = f',"epoch":"{epoch}"' if first_of_epoch else ""
    return f'{{"push":{{"channel":"{channel}","pub":{{"offset":{offset}{epoch_field},{body[1:]}}}}}'


def encode_goodbye(why: Close, *, reason_arrives: bool) -> tuple[str, Close]:
    """Return a disconnect push if the close frame may lack its reason, as Daphne's do.

    centrifuge-js treats a close code without a reason as an accident, and reconnects.
    """
    return "" if reason_arrives or why.reconnect else encode_disconnect_push(why), why


def encode_disconnect_push(why: Close) -> str:
    """Encode the push with the reason why the connection ends; the close frame follows."""
    return _text({"push": {"disconnect": {"code": why.code, "reason": why.reason}}})


def encode_unsubscribe_push(channel: str, why: SubscriptionEnd) -> str:
    """Encode the push that ends a subscription; SDKs subscribe again if its code is ≥ 2500."""
    fields = {"code": why.code, "reason": why.reason}
    return _text({"push": {"channel": channel, "unsubscribe": fields}})


def encode_gap(channel: str, gap: Gap, reason: str) -> str:
    """Encode the push that reports a gap; ``to`` is null if the end is unknown."""
    fields = {"epoch": gap.epoch, "from": gap.first, "to": gap.last, "reason": reason}
    return _text({"push": {"channel": channel, "gap": fields}})


def encode_join(channel: str, info: str) -> str:
    """Encode the push of a join."""
    return f'{{"push":{{"channel":"{channel}","join":{{"info":{info}}}}}}}'


def encode_leave(channel: str, info: str) -> str:
    """Encode the push of a leave."""
    return f'{{"push":{{"channel":"{channel}","leave":{{"info":{info}}}}}}}'


def encode_headcount(channel: str, headcount: Headcount, untold: int | None) -> str:
    """Encode the push with the number of members; stock SDKs ignore it."""
    fields = {**_numbers(headcount), "untold": untold}
    return _text({"push": {"channel": channel, "presence": fields}})


def encode_message(data: str) -> str:
    """Encode the push of data that belongs to no channel."""
    return f'{{"push":{{"message":{{"data":{data}}}}}}}'


def encode_refresh_push(ttl_seconds: int | None) -> str:
    """Encode the push that tells in how many seconds the connection expires; None for never."""
    return _text({"push": {"refresh": _expiry(ttl_seconds)}})


def encode_state(channel: str, *, live: bool, reason: str | None) -> str:
    """Encode the push that tells whether this node or a channel is live; stock SDKs ignore it."""
    fields: dict[str, object] = {"live": live}
    if reason is not None:
        fields["reason"] = reason
    return _text({"push": {"channel": channel, "state": fields} if channel else {"state": fields}})


def _text(value: dict[str, Any]) -> str:
    return _write(value).decode()
