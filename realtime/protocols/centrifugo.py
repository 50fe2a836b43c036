"""Centrifugo's JSON protocol, as the stock SDKs speak it.

Source: centrifugal.dev/docs/transports/client_protocol. Knows the bytes and nothing of what they
lead to. Three pushes are ours, ignored by stock SDKs: ``gap``, ``state`` and ``presence``
(docs/protocol.md#extensions).
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from realtime.codes import (
    BAD_COMMAND,
    METHOD_NOT_FOUND,
    NOT_AVAILABLE,
    Close,
    Refusal,
    SubscriptionEnd,
)
from realtime.errors import InvalidName
from realtime.gaps import Gap, Position
from realtime.membership import Headcount
from realtime.names import checked_channel
from realtime.protocols import (
    BadFrame,
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
    Refused,
    SubRefresh,
    Subscribe,
    Unsubscribe,
    Wanted,
)

PING = PONG = "{}"
FRAME_BYTES = 80 * 1024
"""Of one frame from a client; the servers' own limit is larger, so that ours speaks first."""
COMMANDS_LIMIT = 1024
"""Commands in one frame, as long as a connection may not have more channels than half of it."""

NO_ID = "a command is a JSON object with an id from 1 to 4294967295"


class _OnChannel(msgspec.Struct):
    channel: str
    token: str = ""


class _Sub(msgspec.Struct):
    token: str = ""
    join_leave: bool = False
    recover: bool = False
    epoch: str = ""
    offset: int = 0


class _Subscribe(_Sub, kw_only=True):
    channel: str


class _Shown(msgspec.Struct):
    token: str = ""
    subs: dict[str, _Sub] = {}


class _Said(msgspec.Struct):
    channel: str
    data: msgspec.Raw


class _Asked(msgspec.Struct):
    data: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"null"))
    method: str = ""


class _History(msgspec.Struct):
    channel: str
    limit: int = 0
    since: Any = None


class _Anything(msgspec.Struct):
    """Arguments that we do not need; SDKs send what newer servers know."""


class Line(msgspec.Struct):
    """What a client may say in a line: an id, and one of the commands."""

    id: int = 0
    connect: _Shown | None = None
    subscribe: _Subscribe | None = None
    unsubscribe: _OnChannel | None = None
    publish: _Said | None = None
    refresh: _Shown | None = None
    sub_refresh: _OnChannel | None = None
    ping: _Anything | None = None
    history: _History | None = None
    presence: _OnChannel | None = None
    presence_stats: _OnChannel | None = None
    rpc: _Asked | None = None
    send: _Asked | None = None


_EPOCH = re.compile(r"[0-9a-f]{1,64}")
_ID_FIRST = re.compile(r'\{"id":([1-9][0-9]{0,9}),')
_read_line = msgspec.json.Decoder(Line).decode
_read_any = msgspec.json.Decoder(dict[str, Any]).decode
_write = msgspec.json.Encoder().encode


def read(
    frame: str, frame_bytes: int = FRAME_BYTES, frame_commands: int = COMMANDS_LIMIT
) -> list[Command]:
    """Return the commands of a frame of at most so many bytes and commands, in order.

    Each of the `subs` of a `Connect` counts as a command, since it costs as much.

    Raises:
        BadFrame: Some of it is not a command; it carries the good ones before.
    """
    # A character has at most four bytes: hardly any frame need be counted.
    if len(frame) > frame_bytes // 4 and len(frame.encode(errors="replace")) > frame_bytes:
        raise BadFrame(f"a frame of more than {frame_bytes} bytes", limit="frame_bytes")
    commands: list[Command] = []
    room = frame_commands
    for line in filter(None, frame.split("\n")):
        try:
            command = _command(line, room - 1)
        except BadFrame as error:
            raise BadFrame(error.reason, tuple(commands)) from None
        except _NoRoom:
            reason = f"more than {frame_commands} commands in one frame"
            raise BadFrame(reason, tuple(commands), "commands_per_frame") from None
        room -= 1 + len(command.subs) if isinstance(command, Connect) else 1
        commands.append(command)
    if not commands:
        raise BadFrame("an empty frame")
    return commands


class _NoRoom(Exception):
    """There are more commands in the frame than may be."""


def _command(line: str, room: int) -> Command:
    """Read a command beside which so many more may stand in its frame."""
    if room < 0:
        raise _NoRoom
    if line == PONG:
        return Pong()
    try:
        parsed = _read_line(line)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return _wrong_arguments(line)
    if parsed.send is not None and parsed.id == 0:
        return Call(0, "", bytes(parsed.send.data))
    if not _is_id(parsed.id):
        raise BadFrame(NO_ID)
    try:
        return _known(parsed, room) or Refused(parsed.id, METHOD_NOT_FOUND)
    except InvalidName:
        return Refused(parsed.id, BAD_COMMAND)


def _known(line: Line, room: int) -> Command | None:
    if line.subscribe is not None:
        sub = line.subscribe
        channel = checked_channel(sub.channel)
        return Subscribe(line.id, channel, sub.token, sub.join_leave, _place(sub))
    if line.publish is not None:
        return Publish(line.id, checked_channel(line.publish.channel), bytes(line.publish.data))
    if line.unsubscribe is not None:
        return Unsubscribe(line.id, checked_channel(line.unsubscribe.channel))
    if line.connect is not None:
        if len(line.connect.subs) > room:  # before each of thousands of names is looked at
            raise _NoRoom
        return Connect(line.id, line.connect.token, _subs(line.connect.subs))
    if line.refresh is not None:
        return Refresh(line.id, line.refresh.token)
    if line.sub_refresh is not None:
        asked = line.sub_refresh
        return SubRefresh(line.id, checked_channel(asked.channel), asked.token)
    if line.ping is not None:
        return Ping(line.id)
    if line.history is not None:
        return _history(line.id, line.history)
    if line.presence is not None:
        return Presence(line.id, checked_channel(line.presence.channel))
    if line.presence_stats is not None:
        return PresenceStats(line.id, checked_channel(line.presence_stats.channel))
    if line.rpc is not None:
        return Call(line.id, line.rpc.method, bytes(line.rpc.data))
    return None


def _subs(subs: dict[str, _Sub]) -> tuple[Wanted, ...]:
    return tuple(
        Wanted(checked_channel(channel), sub.token, sub.join_leave, _place(sub))
        for channel, sub in subs.items()
    )


def _place(sub: _Sub) -> Position | None:
    good = sub.recover and _EPOCH.fullmatch(sub.epoch) and 0 <= sub.offset < 2**53
    return Position(sub.epoch, sub.offset) if good else None


def _history(command_id: int, wanted: _History) -> Command:
    """Where a channel stands can be told; what was published is nowhere."""
    if wanted.limit != 0 or wanted.since is not None:
        return Refused(command_id, NOT_AVAILABLE)
    return History(command_id, checked_channel(wanted.channel))


def _wrong_arguments(line: str) -> Command:
    """Refuse a line by its id, if one can be read; what has none cannot be answered."""
    command_id = _id_of(line)
    if not _is_id(command_id):
        raise BadFrame(NO_ID)
    return Refused(command_id, BAD_COMMAND)


def _is_id(number: int) -> bool:
    return 0 < number < 2**32  # uint32 in Centrifugo's client.proto


def _id_of(line: str) -> int:
    try:
        command_id = _read_any(line).get("id")
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        # JavaScript's JSON.stringify writes a lone surrogate, which is not Unicode and so not JSON
        # for us. That is the person's text, not a broken client: SDKs put the id first.
        first = _ID_FIRST.match(line)
        return int(first[1]) if first else 0
    return command_id if type(command_id) is int else 0


def connected(
    command_id: int,
    client: str,
    version: str,
    ping_seconds: int,
    ttl_seconds: int | None,
    emulated_by: tuple[str, str] | None = None,
) -> str:
    """Return the reply to `Connect`; ``pong`` asks the client to answer our pings."""
    result = {"client": client, "version": version, "ping": ping_seconds, "pong": True}
    if emulated_by is not None:
        result["session"], result["node"] = emulated_by
    return _text({"id": command_id, "connect": result | _expiry(ttl_seconds)})


def _expiry(ttl_seconds: int | None) -> dict[str, Any]:
    return {} if ttl_seconds is None else {"expires": True, "ttl": ttl_seconds}


def refreshed(
    command: Refresh | SubRefresh, client: str, version: str, ttl_seconds: int | None
) -> str:
    """Return the reply to a token that was good."""
    if isinstance(command, SubRefresh):
        return _text({"id": command.id, "sub_refresh": _expiry(ttl_seconds)})
    result = {"client": client, "version": version}
    return _text({"id": command.id, "refresh": result | _expiry(ttl_seconds)})


def subscribed(
    command_id: int,
    position: Position | None,
    ttl_seconds: int | None,
    *,
    has_all: bool | None = None,
) -> str:
    """Return the reply to `Subscribe`."""
    result = {} if position is None else _position(position)
    if has_all is not None:
        result |= {"was_recovering": True, "recovered": has_all}
    return _text({"id": command_id, "subscribe": result | _expiry(ttl_seconds)})


def served(channel: str, position: Position) -> str:
    """Return the push that begins a subscription which the client did not ask for."""
    return _text({"push": {"channel": channel, "subscribe": _position(position)}})


def _position(position: Position) -> dict[str, Any]:
    """Return a position as stock SDKs show it.

    ``positioned`` without ``recoverable``: they never ask for history.
    """
    return {
        "positioned": True,
        "recoverable": False,
        "epoch": position.epoch,
        "offset": position.offset,
    }


_METHODS = {Unsubscribe: "unsubscribe", Publish: "publish", Ping: "ping"}


def done(command: Command) -> str:
    """Return the empty reply to `Unsubscribe`, `Publish` or `Ping`."""
    return _text({"id": command[0], _METHODS[type(command)]: {}})  # type: ignore[misc]


def stands(command_id: int, position: Position) -> str:
    """Return the reply to `History`: an empty one, with the position."""
    fields = {"offset": position.offset, "epoch": position.epoch}
    return _text({"id": command_id, "history": fields})


def present(command_id: int, members: str) -> str:
    """Return the reply to `Presence`."""
    return f'{{"id":{command_id},"presence":{{"presence":{members}}}}}'


def counted(command_id: int, headcount: Headcount) -> str:
    """Return the reply to `PresenceStats`."""
    return _text({"id": command_id, "presence_stats": _numbers(headcount)})


def _numbers(headcount: Headcount) -> dict[str, Any]:
    return {"num_clients": headcount.clients, "num_users": headcount.users}


def answered(command_id: int, data: str) -> str:
    """Return the reply to `Call`."""
    return f'{{"id":{command_id},"rpc":{{"data":{data}}}}}'


def refused(command_id: int, refusal: Refusal) -> str:
    """Return the error reply; without an id where there was none to read."""
    error: dict[str, object] = {"code": refusal.code, "message": refusal.message}
    if refusal.temporary:
        error["temporary"] = True
    return _text({"id": command_id, "error": error} if command_id else {"error": error})


def publication(channel: str, position: Position, body: str, *, first_of_epoch: bool) -> str:
    """Return the push of a publication.

    The body of an envelope is a checked JSON object already, and no name of a channel needs an
    escape, so joining the texts is encoding (a third of the time that encoding it anew takes).
    """
    epoch, offset = position
    told = f',"epoch":"{epoch}"' if first_of_epoch else ""
    return f'{{"push":{{"channel":"{channel}","pub":{{"offset":{offset}{told},{body[1:]}}}}}'


def disconnected(why: Close) -> str:
    """Return the push that says why the connection ends; the close frame follows."""
    return _text({"push": {"disconnect": {"code": why.code, "reason": why.reason}}})


def unsubscribed(channel: str, why: SubscriptionEnd) -> str:
    """Return the push that ends a subscription; a code from 2500 on makes SDKs subscribe again."""
    fields = {"code": why.code, "reason": why.reason}
    return _text({"push": {"channel": channel, "unsubscribe": fields}})


def gap(channel: str, gap: Gap, reason: str) -> str:
    """Return the push that says what was missed; ``to`` is null where the end cannot be known."""
    fields = {"epoch": gap.epoch, "from": gap.first, "to": gap.last, "reason": reason}
    return _text({"push": {"channel": channel, "gap": fields}})


def joined(channel: str, info: str) -> str:
    """Return the push that says who came."""
    return f'{{"push":{{"channel":"{channel}","join":{{"info":{info}}}}}}}'


def left(channel: str, info: str) -> str:
    """Return the push that says who went."""
    return f'{{"push":{{"channel":"{channel}","leave":{{"info":{info}}}}}}}'


def headcount(channel: str, headcount: Headcount, untold: int | None) -> str:
    """Return the push that says how many are there; stock SDKs ignore it."""
    fields = {**_numbers(headcount), "untold": untold}
    return _text({"push": {"channel": channel, "presence": fields}})


def message(data: str) -> str:
    """Return the push of something that is on no channel."""
    return f'{{"push":{{"message":{{"data":{data}}}}}}}'


def prolonged(ttl_seconds: int | None) -> str:
    """Return the push that says until when the connection is good now."""
    return _text({"push": {"refresh": _expiry(ttl_seconds)}})


def state(*, live: bool, reason: str | None) -> str:
    """Return the push that says whether this node hears from the broker."""
    fields: dict[str, object] = {"live": live}
    if reason is not None:
        fields["reason"] = reason
    return _text({"push": {"state": fields}})


def _text(value: dict[str, Any]) -> str:
    return _write(value).decode()
