"""What nodes tell each other through the broker, publications aside: one parser for all of it.

A message is told apart by its first word::

    12                                     a canary that a node has sent to itself
    said 9c41d0 {"id":2,"ping":{}}         a frame of an emulated client, forwarded to its node
    1700000000000-0 {"method":"refresh",…} a command for the connections of a user
    ? 6f1c2a90b4d7e833 channels chat:*     a question to all nodes
    service 6f1c2a90b4d7e833               the service that a node belongs to
    members {"num_clients":2,…}            clients that joined or left a channel

Anybody with access to Redis can publish there, and during an upgrade nodes of a newer version do:
what cannot be read is `UnknownMessage`, which a node counts and passes over. No socket, no clock.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from realtime import membership, survey
from realtime.errors import EnvelopeError
from realtime.membership import Changes
from realtime.survey import Question


class UnknownMessage(Exception):
    """Not a message that this version of a node understands."""


class Moment(NamedTuple):
    """When nodes were told something, by the broker's clock; moments never go back."""

    milliseconds: int
    """Since 1970."""
    number: int
    """In that millisecond."""


class Canary(NamedTuple):
    """A canary on its way back to its node."""

    number: int


class Forwarded(NamedTuple):
    """A frame of an emulated client, which another node has received."""

    session: str
    frame: str


class UserCommand(NamedTuple):
    """A command for the connections of a user; `realtime.control` reads it."""

    at: Moment
    raw: bytes


class Announcement(NamedTuple):
    """A node says which service it belongs to."""

    service: str
    """The id that the service's database has: 16 hex digits."""


NodeMessage = Canary | Forwarded | UserCommand | Question | Announcement | Changes

_NUMBER = re.compile(rb"[0-9]{1,15}")
_MOMENT = re.compile(rb"[0-9]{1,16}-[0-9]{1,16}")
_SERVICE = re.compile(rb"service ([0-9a-f]{16})")


def parse(raw: bytes) -> NodeMessage:
    """Read a message.

    Raises:
        UnknownMessage: It is not one of the six above.
    """
    word, _, rest = raw.partition(b" ")
    if (read := _READERS.get(word)) is not None:
        return read(raw)
    if _NUMBER.fullmatch(raw):
        return Canary(int(raw))
    if _MOMENT.fullmatch(word):
        return UserCommand(moment_of(word), rest)
    raise UnknownMessage(f"unknown first word in {raw[:32]!r}")


class Dispatcher:
    """Hands each message to the one handler for its type."""

    def __init__(self, handlers: Mapping[type[NodeMessage], Callable[[Any], object]]) -> None:
        self._handlers = handlers

    def take(self, raw: bytes) -> bool:
        """Hand a message over; False says that there is no handler for it."""
        try:
            message = parse(raw)
        except UnknownMessage:
            return False
        handle = self._handlers.get(type(message))
        if handle is None:
            return False
        handle(message)
        return True


def forwarded(session: str, frame: str) -> bytes:
    """Return the message that carries a frame of an emulated client to its node."""
    return f"said {session} {frame}".encode("utf-8", "replace")


def moment_of(text: bytes) -> Moment:
    """Return the moment that is written as ``1700000000000-0``.

    Raises:
        ValueError: It is not.
    """
    milliseconds, _, number = text.partition(b"-")
    return Moment(int(milliseconds), int(number))


def _forwarded(raw: bytes) -> Forwarded:
    _, session, *frame = raw.split(b" ", 2)
    return Forwarded(session.decode("latin-1"), b"".join(frame).decode(errors="replace"))


def _question(raw: bytes) -> Question:
    question = survey.opened(raw)
    if question is None:
        raise UnknownMessage(f"unknown question {raw[:64]!r}")
    return question


def _announcement(raw: bytes) -> Announcement:
    match = _SERVICE.fullmatch(raw)
    if match is None:
        raise UnknownMessage("not the id of a service")
    return Announcement(match[1].decode())


def _changes(raw: bytes) -> Changes:
    try:
        return membership.opened(raw)
    except EnvelopeError as error:
        raise UnknownMessage(str(error)) from error


_READERS: Mapping[bytes, Callable[[bytes], NodeMessage]] = {
    b"said": _forwarded,
    b"?": _question,
    b"service": _announcement,
    b"members": _changes,
}
