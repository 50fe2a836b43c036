"""A second wire protocol, minimal, which differs from Centrifugo's wherever it can.

A frame is one JSON array whose first item is a word; commands have no ids. The server speaks first,
and a client never sends `connect`. Only subscribing is confirmed; an error names the word and the
channel that it refers to. Events have names. Closed channels (`club:…`) require a proof that is
valid for one connection. Close codes start at 4000, and a rejected client is told after accept. The
protocol exists to show that the engine knows no more of Centrifugo than that module does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import msgspec

from realtime.core.codes import (
    BAD_COMMAND,
    Close,
    Refusal,
    SubscriptionEnd,
)
from realtime.core.identity import Grant, Identity
from realtime.core.members import Headcount
from realtime.core.names import checked_channel
from realtime.core.positions import Gap, Position
from realtime.errors import InvalidName, InvalidToken
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
    Subscription,
    Unsubscribe,
)
from realtime.protocols.centrifugo import text_frame

PING = '["ping"]'
PONG = '["pong"]'
CLOSED = "club:"
MOVED = 1000
"""Added to our close codes, which makes them private to the application (RFC 6455 §7.4.2)."""


def read(frame: str, frame_bytes: int = 80 * 1024, frame_commands: int = 1024) -> list[Command]:
    """Parse the one command of a frame."""
    try:
        if len(frame.encode()) > frame_bytes:
            raise BadFrame("too long", limit="frame_bytes")
        word, *items = msgspec.json.decode(frame, type=list[Any])
        return [_command(str(word), items)]
    except InvalidName:
        return [Refused(0, BAD_COMMAND)]
    except (msgspec.MsgspecError, UnicodeError, RecursionError, ValueError, TypeError) as error:
        raise BadFrame("no array with a word") from error


def _command(word: str, items: list[Any]) -> Command:
    match word, items:
        case "pong", []:
            return Pong()
        case "ping", []:
            return Ping(0)
        case "subscribe", [channel, proof, bool(joins), since]:
            place = None if since is None else Position(*since)
            return Subscribe(0, checked_channel(channel), proof, joins, place)
        case "leave", [channel]:
            return Unsubscribe(0, checked_channel(channel))
        case "say", [channel, event, data]:
            return Publish(0, checked_channel(channel), msgspec.json.encode(data), event)
        case "identify", [token]:
            return Refresh(0, token)
        case "prove", [channel, proof]:
            return SubRefresh(0, checked_channel(channel), proof)
        case "where", [channel]:
            return History(0, checked_channel(channel))
        case "who", [channel]:
            return Presence(0, checked_channel(channel))
        case "how many", [channel]:
            return PresenceStats(0, checked_channel(channel))
        case "ask", [method, data]:
            return Call(0, method, msgspec.json.encode(data))
        case "tell", [method, data]:
            return Call(0, method, msgspec.json.encode(data), wants_answer=False)
    return Refused(0, BAD_COMMAND)


def frames(lines: str) -> Sequence[str]:
    """Each line is a frame of its own."""
    return lines.split("\n")


def wire_frames(lines: str) -> bytes:
    """Return these frames, encoded."""
    return b"".join(text_frame(frame.encode()) for frame in frames(lines))


def client_id(bits: int) -> str:
    """Return a client ID of two numbers, like a Pusher socket ID."""
    return f"{bits >> 64}.{bits & (1 << 64) - 1}"


def opening() -> tuple[Command, ...]:
    """Return the commands that are implied before a client says anything."""
    return (Connect(0),)


def refuse_after_accept(status: int, reason: str) -> tuple[str, Close]:
    """Say why, then close."""
    return _said("bye", status, reason), Close(4000 + status, "turned away")


def encode_connect_reply(
    command: Connect,
    client: str,
    version: str,
    ping_seconds: int,
    ttl_seconds: int | None,
    emulated_by: tuple[str, str] | None = None,
) -> str:
    """Encode the greeting."""
    return _said("hello", client, version, ping_seconds, ttl_seconds)


def encode_subscribe_reply(
    command: Subscribe,
    position: Position | None,
    ttl_seconds: int | None,
    *,
    has_all: bool | None = None,
) -> str:
    """Confirm: the only reply to a command that succeeded."""
    return _said("subscribed", command.channel, position, ttl_seconds, has_all)


def encode_subscribe_push(channel: str, position: Position) -> str:
    """Look as if the client had subscribed itself."""
    return _said("subscribed", channel, position, None, None)


def encode_refresh_reply(
    command: Refresh | SubRefresh, client: str, version: str, ttl_seconds: int | None
) -> str:
    """Return nothing: a valid token is not confirmed."""
    return ""


def encode_empty_reply(command: Command) -> str:
    """Return nothing: success is not confirmed."""
    return ""


def encode_history_reply(command: History, position: Position) -> str:
    """Encode the position of a channel."""
    return _said("where", command.channel, position)


def encode_presence_reply(command: Presence, members: str) -> str:
    """Encode the members of a channel."""
    return _said("who", command.channel, msgspec.Raw(members.encode()))


def encode_presence_stats_reply(command: PresenceStats, headcount: Headcount) -> str:
    """Encode the number of members of a channel."""
    return _said("how many", command.channel, headcount)


def encode_call_reply(command: Call, data: str) -> str:
    """Encode the host's answer."""
    return _said("answer", command.method, msgspec.Raw(data.encode()))


def encode_refusal(command: Command | None, refusal: Refusal) -> str:
    """Name the word and the channel of the rejected command."""
    word = "" if command is None else type(command).__name__
    code, message, temporary, _ = refusal  # the last is for the operator's log alone
    return _said("no", word, getattr(command, "channel", ""), code, message, temporary)


def encode_publication(channel: str, position: Position, body: str, *, first_of_epoch: bool) -> str:
    """Encode the publication under its event's own name."""
    said = msgspec.json.decode(body)
    epoch = position.epoch if first_of_epoch else None
    event = said.get("tags", {}).get("event", "message")
    return _said("event", channel, event, said["data"], said.get("tags"), position.offset, epoch)


def encode_goodbye(why: Close, *, reason_arrives: bool) -> tuple[str, Close]:
    """Always send the reason, and close with an application's code."""
    return _said("bye", *why), why._replace(code=why.code + MOVED)


def encode_unsubscribe_push(channel: str, why: SubscriptionEnd) -> str:
    """Encode the end of a subscription."""
    return _said("left", channel, why.code, why.reason)


def encode_gap(channel: str, gap: Gap, reason: str) -> str:
    """Encode what was missed."""
    return _said("missed", channel, *gap, reason)


def encode_join(channel: str, info: str) -> str:
    """Encode a join."""
    return _said("came", channel, msgspec.Raw(info.encode()))


def encode_leave(channel: str, info: str) -> str:
    """Encode a leave."""
    return _said("went", channel, msgspec.Raw(info.encode()))


def encode_headcount(channel: str, headcount: Headcount, untold: int | None) -> str:
    """Encode the number of members after changes."""
    return _said("now", channel, *headcount, untold)


def encode_message(data: str) -> str:
    """Encode a message outside of any channel."""
    return _said("for you", msgspec.Raw(data.encode()))


def encode_refresh_push(ttl_seconds: int | None) -> str:
    """Encode the new expiry of the connection."""
    return _said("until", ttl_seconds)


def encode_state(channel: str, *, live: bool, reason: str | None) -> str:
    """Encode the state of the node or of a channel."""
    return _said("state", live, reason, channel)


def _said(*items: object) -> str:
    return msgspec.json.encode(items).decode()


class Proofs:
    """Credentials of this protocol: a closed channel requires a proof for one connection."""

    def verify_identity(self, token: str, now: float) -> Identity:
        """Return the anonymous identity: this protocol has no users."""
        raise InvalidToken("there are no tokens")

    def verify_subscription(self, client: str, command: Subscription, now: float) -> Grant | None:
        """Return a grant for a valid proof; without one, a closed channel stays closed."""
        if not command.channel.startswith(CLOSED):
            return None
        if command.token != proof(client, command.channel):
            raise InvalidToken("the proof is of another connection or channel")
        return Grant(command.channel, "", None)


def proof(client: str, channel: str) -> str:
    """Return the proof that a site would sign for its client."""
    return hashlib.sha256(f"secret:{client}:{channel}".encode()).hexdigest()


class PlainClient:
    """The client side, in the terms of `tests/contract/test_wire_protocol.py`."""

    def sayable(self, command: Command) -> Command | None:
        """Return a command as it arrives; None if this protocol cannot express it."""
        if isinstance(command, Connect):
            return None
        if isinstance(command, Pong):
            return command
        if isinstance(command, Publish):
            command = command._replace(event="said")
        return command._replace(id=0)

    def write(self, command: Command) -> str:
        """Return the line for a command."""
        match command:
            case Pong() | Ping():
                return json.dumps([type(command).__name__.lower()])
            case Subscribe(_, channel, token, joins, position):
                return json.dumps(["subscribe", channel, token, joins, position])
            case Unsubscribe(_, channel):
                return json.dumps(["leave", channel])
            case Publish(_, channel, data, event):
                return f'["say",{json.dumps(channel)},{json.dumps(event)},{data.decode()}]'
            case Refresh(_, token):
                return json.dumps(["identify", token])
            case SubRefresh(_, channel, token):
                return json.dumps(["prove", channel, token])
            case History(_, channel):
                return json.dumps(["where", channel])
            case Presence(_, channel):
                return json.dumps(["who", channel])
            case PresenceStats(_, channel):
                return json.dumps(["how many", channel])
            case Call(_, method, data, wants_answer):
                word = "ask" if wants_answer else "tell"
                return f'["{word}",{json.dumps(method)},{data.decode()}]'
        return '["no such word"]'

    def frames(self, lines: Sequence[str]) -> list[str]:
        """Return the frames in which it would send these lines."""
        return list(lines)

    def lines(self, frame: str) -> list[str]:
        """Return the lines of a received frame."""
        return [frame]

    def names(self, command: Command | None) -> object:
        """Return how a reply refers to its command."""
        if command is None:
            return None
        return getattr(command, "channel", None) or getattr(command, "method", None)

    def close_code(self, code: int) -> int:
        """Return the code in the close frame for one of our codes."""
        return code + MOVED

    def read(self, line: str) -> dict[str, Any]:
        """Parse a line."""
        if not line:
            return {}
        word, *items = json.loads(line)
        if word == "ping":
            return {"ping": True}
        keys = _KEYS[word]
        said = dict(zip(keys, items, strict=True))
        if said.get("position") is not None:
            said["epoch"], said["offset"] = said.pop("position")
        if said.get("ttl") is not None:
            said["expires"] = True
        if "has_all" in said and (has_all := said.pop("has_all")) is not None:
            said |= {"was_recovering": True, "recovered": has_all}
        if "counts" in said:
            said["num_clients"], said["num_users"] = said.pop("counts")
        if said.pop("word", None) == "":
            said["answers"] = None
        said.pop("event", None)
        if said.get("epoch", "") is None:
            del said["epoch"]
        return {
            key: value for key, value in said.items() if value is not None or key in _MAY_BE_NULL
        }


_MAY_BE_NULL = {"answers", "data", "to", "untold", "channel"}
_KEYS: dict[str, tuple[str, ...]] = {
    "hello": ("client", "version", "ping", "ttl"),
    "subscribed": ("answers", "position", "ttl", "has_all"),
    "where": ("answers", "position"),
    "who": ("answers", "presence"),
    "how many": ("answers", "counts"),
    "answer": ("answers", "data"),
    "no": ("word", "answers", "code", "message", "temporary"),
    "event": ("channel", "event", "data", "tags", "offset", "epoch"),
    "bye": ("code", "reason"),
    "left": ("channel", "code", "reason"),
    "missed": ("channel", "epoch", "from", "to", "reason"),
    "came": ("channel", "info"),
    "went": ("channel", "info"),
    "now": ("channel", "num_clients", "num_users", "untold"),
    "for you": ("data",),
    "until": ("ttl",),
    "state": ("live", "reason", "channel"),
}
