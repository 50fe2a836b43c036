"""Parses frames of Centrifugo's JSON protocol into commands."""

from __future__ import annotations

import re

import msgspec

from realtime.core.codes import BAD_COMMAND, METHOD_NOT_FOUND, NOT_AVAILABLE
from realtime.core.names import checked_channel
from realtime.core.positions import Position
from realtime.errors import InvalidName
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
    WantedChannel,
)

PONG = "{}"
CLIENT_FRAME_BYTES = 80 * 1024
"""The size limit of a client's frame; below the servers' own limits, so that ours applies."""
COMMANDS_LIMIT = 1024
"""Commands in one frame; higher if a connection may have more than half as many channels."""

NO_ID = "a command must be a JSON object with an id from 1 to 4294967295"


class _OnChannel(msgspec.Struct):
    channel: str
    token: str = ""


class SubFields(msgspec.Struct):
    """What a client says of a channel when it subscribes."""

    token: str = ""
    join_leave: bool = False
    recover: bool = False
    epoch: str = ""
    offset: int = 0


class _Subscribe(SubFields, kw_only=True):
    channel: str


class _ConnectFields(msgspec.Struct):
    token: str = ""
    subs: dict[str, SubFields] = {}


class _RefreshFields(msgspec.Struct):
    token: str = ""


class _PublishFields(msgspec.Struct):
    channel: str
    data: msgspec.Raw


class _RpcFields(msgspec.Struct):
    data: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"null"))
    method: str = ""


class _History(msgspec.Struct):
    channel: str
    limit: int = 0
    since: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)


class _Anything(msgspec.Struct):
    """Arguments that are ignored; SDKs also send fields for newer servers."""


class CommandLine(msgspec.Struct):
    """One line of a client: an id and one command."""

    id: int = 0
    connect: _ConnectFields | None = None
    subscribe: _Subscribe | None = None
    unsubscribe: _OnChannel | None = None
    publish: _PublishFields | None = None
    refresh: _RefreshFields | None = None
    sub_refresh: _OnChannel | None = None
    ping: _Anything | None = None
    history: _History | None = None
    presence: _OnChannel | None = None
    presence_stats: _OnChannel | None = None
    rpc: _RpcFields | None = None
    send: _RpcFields | None = None


class _OnlyId(msgspec.Struct):
    id: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)


_EPOCH = re.compile(r"[0-9a-f]{1,64}")
_ID_FIRST = re.compile(r'\{"id":([1-9][0-9]{0,9}),')
_read_line = msgspec.json.Decoder(CommandLine).decode
# Nothing from a client is decoded as any value: 160,000 empty lists in an ignored field of a frame
# of 480 KiB took 7 ms, which no rate counts.
_read_id = msgspec.json.Decoder(_OnlyId).decode
_ID = re.compile(rb"[1-9][0-9]{0,9}")


def read(
    frame: str, frame_bytes: int = CLIENT_FRAME_BYTES, frame_commands: int = COMMANDS_LIMIT
) -> list[Command]:
    """Parse the commands of a frame, in order.

    Args:
        frame: The text of the frame.
        frame_bytes: The maximum size of the frame.
        frame_commands: The maximum number of its commands. Each of the `subs` of a `Connect` counts
            as one, because it costs as much.

    Raises:
        BadFrame: The frame exceeds a limit, or a line is not a command; it contains the valid
            commands before that line.
    """
    # A character has at most four bytes, so hardly any frame needs to be encoded to measure it.
    if len(frame) > frame_bytes // 4 and len(frame.encode(errors="replace")) > frame_bytes:
        raise BadFrame(f"the frame has more than {frame_bytes} bytes", limit="frame_bytes")
    commands: list[Command] = []
    commands_left = frame_commands
    for line in filter(None, frame.split("\n")):
        try:
            command = _command(line, commands_left - 1)
        except BadFrame as error:
            raise BadFrame(error.reason, tuple(commands)) from None
        except _NoRoom:
            reason = f"the frame has more than {frame_commands} commands"
            raise BadFrame(reason, tuple(commands), "commands_per_frame") from None
        commands_left -= 1 + len(command.subs) if isinstance(command, Connect) else 1
        commands.append(command)
    if not commands:
        raise BadFrame("the frame is empty")
    return commands


class _NoRoom(Exception):
    """The frame contains too many commands."""


def _command(line: str, commands_left: int) -> Command:
    """Parse a line; ``commands_left`` is the number of commands that may follow in its frame."""
    if commands_left < 0:
        raise _NoRoom
    if line == PONG:
        return Pong()
    try:
        parsed = _read_line(line)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return _wrong_arguments(line)
    if parsed.send is not None and parsed.id == 0:
        return Call(0, "", bytes(parsed.send.data), wants_answer=False)
    if not _is_id(parsed.id):
        raise BadFrame(NO_ID)
    try:
        return _command_of(parsed, commands_left) or Refused(parsed.id, METHOD_NOT_FOUND)
    except InvalidName:
        return Refused(parsed.id, BAD_COMMAND)


def _command_of(line: CommandLine, commands_left: int) -> Command | None:
    if line.subscribe is not None:
        sub = line.subscribe
        channel = checked_channel(sub.channel)
        return Subscribe(line.id, channel, sub.token, sub.join_leave, position_in(sub))
    if line.publish is not None:
        return Publish(line.id, checked_channel(line.publish.channel), bytes(line.publish.data))
    if line.unsubscribe is not None:
        return Unsubscribe(line.id, checked_channel(line.unsubscribe.channel))
    if line.connect is not None:
        if len(line.connect.subs) > commands_left:  # before thousands of names are parsed
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


def _subs(subs: dict[str, SubFields]) -> tuple[WantedChannel, ...]:
    return tuple(
        WantedChannel(checked_channel(channel), sub.token, sub.join_leave, position_in(sub))
        for channel, sub in subs.items()
    )


def position_in(sub: SubFields) -> Position | None:
    """Return the position that the client names, if it names a valid one."""
    good = sub.recover and _EPOCH.fullmatch(sub.epoch) and 0 <= sub.offset < 2**53
    return Position(sub.epoch, sub.offset) if good else None


def _history(command_id: int, wanted: _History) -> Command:
    """Return a request for the position, or a refusal: publications are not kept."""
    if wanted.limit != 0 or bytes(wanted.since) not in (b"", b"null"):
        return Refused(command_id, NOT_AVAILABLE)
    return History(command_id, checked_channel(wanted.channel))


def _wrong_arguments(line: str) -> Command:
    """Refuse a line by its id; a line without a readable id cannot be answered."""
    command_id = _id_of(line)
    if not _is_id(command_id):
        raise BadFrame(NO_ID)
    return Refused(command_id, BAD_COMMAND)


def _is_id(number: int) -> bool:
    return 0 < number < 2**32  # uint32 in Centrifugo's client.proto


def _id_of(line: str) -> int:
    try:
        said = bytes(_read_id(line).id)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        # JavaScript's JSON.stringify writes a lone surrogate, which is not Unicode, so our parser
        # refuses it. It is the user's text, not a sign of a broken client. SDKs put the id first.
        first = _ID_FIRST.match(line)
        return int(first[1]) if first else 0
    return int(said) if _ID.fullmatch(said) else 0
