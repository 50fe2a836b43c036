"""Parses all messages between nodes, except publications.

The first word of a message determines its type::

    12                                     a canary that a node has sent to itself
    said 9c41d0 {"id":2,"ping":{}}         a frame of an emulated client, forwarded to its node
    1700000000000-0 {"method":"refresh",…} a command for the connections of a user
    ? 6f1c2a90b4d7e833 channels chat:*     a question to all nodes
    service 6f1c2a90b4d7e833               the service that a node belongs to
    members {"num_clients":2,…}            clients that joined or left a channel

Any client of Redis can publish there, and during an upgrade newer nodes send newer messages. A
message that cannot be parsed raises `UnknownMessage`; nodes count and ignore it. The module uses no
socket and no clock.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from realtime.core import members, survey
from realtime.core.members import Changes
from realtime.core.survey import Question
from realtime.errors import EnvelopeError

ALL_NODES = "!nodes"
"""The channel that every node subscribes to; clients cannot name it."""


class UnknownMessage(Exception):
    """The message is not one that this version of a node knows."""


class Moment(NamedTuple):
    """The time of a command to all nodes, by the broker's clock; it never goes backwards."""

    milliseconds: int
    """Milliseconds since 1970."""
    number: int
    """The sequence number within the millisecond."""

    def just_before(self) -> Moment:
        """Return the moment before this one, which must not be the first."""
        if self.number:
            return Moment(self.milliseconds, self.number - 1)
        return Moment(self.milliseconds - 1, 2**64 - 1)


class CanaryMessage(NamedTuple):
    """A canary that comes back to its node."""

    number: int


class ForwardedFrame(NamedTuple):
    """A frame of an emulated client, received by another node."""

    session: str
    frame: str


class UserCommand(NamedTuple):
    """A command for the connections of a user; `realtime.core.node_commands` parses it."""

    at: Moment
    raw: bytes


class Announcement(NamedTuple):
    """A node announces the service that it belongs to."""

    service: str
    """The id stored in the service's database: 16 hex digits."""


NodeMessage = CanaryMessage | ForwardedFrame | UserCommand | Question | Announcement | Changes

_NUMBER = re.compile(rb"[0-9]{1,15}")
_MOMENT = re.compile(rb"[0-9]{1,16}-[0-9]{1,16}")
_SERVICE = re.compile(rb"service ([0-9a-f]{16})")


def parse(raw: bytes) -> NodeMessage:
    """Parse a message.

    Raises:
        UnknownMessage: The message is not of one of the six types.
    """
    word, _, rest = raw.partition(b" ")
    if (read := _PARSERS.get(word)) is not None:
        return read(raw)
    if _NUMBER.fullmatch(raw):
        return CanaryMessage(int(raw))
    if _MOMENT.fullmatch(word):
        return UserCommand(parse_moment(word), rest)
    raise UnknownMessage(f"unknown first word in {raw[:32]!r}")


class Dispatcher:
    """Passes each message to the handler for its type."""

    def __init__(self, handlers: Mapping[type[NodeMessage], Callable[[Any], object]]) -> None:
        self._handlers = handlers

    def dispatch(self, raw: bytes) -> bool:
        """Pass a message to its handler; return False if there is none."""
        try:
            message = parse(raw)
        except UnknownMessage:
            return False
        handle = self._handlers.get(type(message))
        if handle is None:
            return False
        handle(message)
        return True


def encode_forwarded(session: str, frame: str) -> bytes:
    """Return the message that carries a frame of an emulated client to its node."""
    return f"said {session} {frame}".encode("utf-8", "replace")


def parse_moment(text: bytes) -> Moment:
    """Parse a moment such as ``1700000000000-0``.

    Raises:
        ValueError: The text is not a moment.
    """
    milliseconds, _, number = text.partition(b"-")
    return Moment(int(milliseconds), int(number))


def _parse_forwarded(raw: bytes) -> ForwardedFrame:
    _, session, *frame = raw.split(b" ", 2)
    return ForwardedFrame(session.decode("latin-1"), b"".join(frame).decode(errors="replace"))


def _parse_question(raw: bytes) -> Question:
    question = survey.decode_question(raw)
    if question is None:
        raise UnknownMessage(f"unknown question {raw[:64]!r}")
    return question


def _parse_announcement(raw: bytes) -> Announcement:
    match = _SERVICE.fullmatch(raw)
    if match is None:
        raise UnknownMessage(f"invalid service ID {raw[:64]!r}")
    return Announcement(match[1].decode())


def _parse_changes(raw: bytes) -> Changes:
    try:
        return members.decode_changes(raw)
    except EnvelopeError as error:
        raise UnknownMessage(str(error)) from error


_PARSERS: Mapping[bytes, Callable[[bytes], NodeMessage]] = {
    b"said": _parse_forwarded,
    b"?": _parse_question,
    b"service": _parse_announcement,
    b"members": _parse_changes,
}
