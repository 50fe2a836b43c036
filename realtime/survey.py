"""What all nodes are asked at once, and what they answer. No socket and no clock.

A question travels on the channel that every node hears, and says where to answer::

    ? 6f1c2a90b4d7e833 channels chat:*
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import NamedTuple

import msgspec

from realtime.errors import InvalidData, RequestError
from realtime.globs import ANY, Glob

CHANNELS_LIMIT = 10_000
"""Channels that are listed at most."""
PATTERN_LIMIT = 255  # characters; as a channel's name
SLICE = 256
"""Channels between two moments at which a node does something else: 27 µs each at worst, for a name
of 255 characters."""
_QUESTION = re.compile(rb"\? ([0-9a-f]{16}) (channels|info) ([^\s]{0,255})")


class TooManyChannels(RequestError):
    """There are too many channels to list them: name a pattern."""

    code = "too_many_channels"


class Question(NamedTuple):
    """What the nodes are asked."""

    id: str
    """Sixteen hex digits, under which they answer."""
    kind: str
    """``channels``, or ``info``."""
    pattern: str = ""
    """Of the channels; empty is all."""


class NodeInfo(msgspec.Struct, frozen=True):
    """How one node stands; the fields are Centrifugo's."""

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


def sealed(question: Question) -> bytes:
    """Return a question as it travels."""
    return f"? {question.id} {question.kind} {question.pattern}".encode()


def opened(raw: bytes) -> Question | None:
    """Return the question in what came; None where it is none of ours."""
    match = _QUESTION.fullmatch(raw)
    if match is None:
        return None
    try:
        return Question(*(part.decode() for part in match.groups()))
    except UnicodeDecodeError:
        return None


def checked_pattern(value: object) -> str:
    """Return a pattern of channels: ``*`` stands for anything, ``?`` for one character.

    Raises:
        InvalidData: That is none.
    """
    if value is None:
        return ""
    if not isinstance(value, str) or not re.fullmatch(rf"[!-~]{{0,{PATTERN_LIMIT}}}", value):
        raise InvalidData(
            f"must be at most {PATTERN_LIMIT} characters; * stands for anything, ? for one",
            field="pattern",
        )
    return value


def matcher(pattern: str) -> Callable[[str], bool]:
    """Return what tells whether a channel's name fits."""
    return Glob(pattern or ANY, one="?").fits


def node_answer(info: NodeInfo) -> bytes:
    """Return an answer to ``info``."""
    return encode(info)


def channels_answer(counts: Mapping[str, int]) -> bytes:
    """Return an answer to ``channels``: their names, and how many listen.

    Args:
        counts: One more than `CHANNELS_LIMIT` says that there are more.
    """
    listed = dict(islice(counts.items(), CHANNELS_LIMIT))
    return encode(_Channels(listed, has_more=len(counts) > len(listed)))


def nodes_of(answers: Iterable[bytes]) -> list[NodeInfo]:
    """Return what nodes said about themselves; what is no answer is left out."""
    found = []
    for raw in answers:
        try:
            found.append(_node(raw))
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            continue
    return sorted(found, key=lambda node: node.uid)


def channels_of(answers: Iterable[bytes], may_name: Callable[[str], bool]) -> dict[str, int]:
    """Return how many listen to each channel, over all nodes that answered.

    Raises:
        TooManyChannels: There are more than can be listed.
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
        raise TooManyChannels(f"more than {CHANNELS_LIMIT} channels: name a pattern")
    return {name: total[name] for name in sorted(total) if may_name(name)}
