"""Questions to all nodes at once, and their answers. No socket and no clock.

A question is sent on the channel that every node listens to, and says where to answer::

    ? 6f1c2a90b4d7e833 channels chat:*
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import NamedTuple

import msgspec

from realtime.core.globs import ANY, Glob
from realtime.errors import InvalidData, RequestError

CHANNELS_LIMIT = 10_000
"""Maximum number of channels listed."""
PATTERN_LIMIT = 255  # characters, as for a channel name
SLICE = 256
"""Channels to match before yielding to other work: 27 µs each at worst, for a name of 255
characters."""
QUERY_BYTES = 2048
"""Maximum size of a query for connections: a user, a channel and a client id, all escaped."""
_QUESTION = re.compile(rb"\? ([0-9a-f]{16}) (channels|info|metrics) ([^\s]{0,255})")
_ABOUT_CONNECTIONS = re.compile(
    rb"\? ([0-9a-f]{16}) (connections) (.{1,%d})" % QUERY_BYTES, re.DOTALL
)


class TooManyChannels(RequestError):
    """There are too many channels to list them: use a pattern."""

    code = "too_many_channels"


class Question(NamedTuple):
    """A question to the nodes."""

    id: str
    """Sixteen hex digits, which the answers refer to."""
    kind: str
    """``channels``, ``info``, ``connections`` or ``metrics``."""
    wanted: str = ""
    """A pattern of channels, empty for all; an encoded
    `realtime.core.connection_survey.ConnectionQuery`; or the seconds of a node's past."""


class NodeInfo(msgspec.Struct, frozen=True):
    """The state of one node; the fields are Centrifugo's."""

    uid: str
    name: str
    version: str
    num_clients: int
    num_users: int
    num_subs: int
    num_channels: int
    uptime: int
    """Seconds."""


class _Channels(msgspec.Struct):
    channels: dict[str, int]
    has_more: bool = False


encode = msgspec.json.Encoder().encode
_node = msgspec.json.Decoder(NodeInfo).decode
_channels = msgspec.json.Decoder(_Channels).decode


def encode_question(question: Question) -> bytes:
    """Encode a question."""
    return f"? {question.id} {question.kind} {question.wanted}".encode()


def decode_question(raw: bytes) -> Question | None:
    """Decode a question; None if the bytes are not one of ours."""
    match = _QUESTION.fullmatch(raw) or _ABOUT_CONNECTIONS.fullmatch(raw)
    if match is None:
        return None
    try:
        return Question(*(part.decode() for part in match.groups()))
    except UnicodeDecodeError:
        return None


def checked_pattern(value: object) -> str:
    """Return a valid channel pattern: ``*`` matches any text, ``?`` one character.

    Raises:
        InvalidData: It is not a valid pattern.
    """
    if value is None:
        return ""
    if not isinstance(value, str) or not re.fullmatch(rf"[!-~]{{0,{PATTERN_LIMIT}}}", value):
        raise InvalidData(
            f"must have at most {PATTERN_LIMIT} characters; * matches any text, ? one character",
            field="pattern",
        )
    return value


def matcher(pattern: str) -> Callable[[str], bool]:
    """Return a function that tells whether a channel's name matches."""
    return Glob(pattern or ANY, one="?").fits


def node_answer(info: NodeInfo) -> bytes:
    """Encode an answer to ``info``."""
    return encode(info)


def channels_answer(counts: Mapping[str, int]) -> bytes:
    """Encode an answer to ``channels``: names, with the number of listeners.

    Args:
        counts: More than `CHANNELS_LIMIT` entries mark the answer as truncated.
    """
    listed = dict(islice(counts.items(), CHANNELS_LIMIT))
    return encode(_Channels(listed, has_more=len(counts) > len(listed)))


def nodes_of(answers: Iterable[bytes]) -> list[NodeInfo]:
    """Decode the nodes' answers to ``info``; invalid ones are skipped."""
    found = []
    for raw in answers:
        try:
            found.append(_node(raw))
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            continue
    return sorted(found, key=lambda node: node.uid)


def channels_of(answers: Iterable[bytes], may_name: Callable[[str], bool]) -> dict[str, int]:
    """Return the number of listeners of each channel, summed over all nodes that answered.

    Raises:
        TooManyChannels: There are more than fit in the list.
    """
    total: Counter[str] = Counter()
    has_more = False
    for raw in answers:
        try:
            answer = _channels(raw)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            continue
        has_more = has_more or answer.has_more
        total.update(answer.channels)
    if has_more or len(total) > CHANNELS_LIMIT:
        raise TooManyChannels(
            f"more than {CHANNELS_LIMIT} channels: use a pattern that matches fewer"
        )
    return {name: total[name] for name in sorted(total) if may_name(name)}
