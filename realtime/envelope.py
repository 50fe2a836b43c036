"""A publication as bytes on Redis.

One line: version, epoch, offset and the body, parted by single spaces::

    1 6f1c2a90b4d7e833 42 {"data":{"n":1},"tags":{"event":"order.shipped"}}

`publish.lua` writes it, since only the script knows the position; `sealed` is its twin in Python,
for the tests and the memory of readers. `opened` trusts nothing: anybody with access to Redis can
publish there.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec

from realtime.errors import EnvelopeError
from realtime.gaps import Position

VERSION = b"1"
ENVELOPE_LIMIT = 96 * 1024  # bytes; data 64 KiB, tags 16 × (64 + 256) characters of up to 4 bytes
_HEAD = re.compile(rb"1 ([0-9a-f]{16}) ([1-9][0-9]{0,15}) ")


class Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a publication says; ``data`` stays encoded."""

    data: msgspec.Raw
    tags: dict[str, str] | None = None


class Envelope(NamedTuple):
    """An opened envelope."""

    position: Position
    content: Content


_decoder = msgspec.json.Decoder(Content)


def sealed(position: Position, body: bytes) -> bytes:
    """Return the envelope of a body at a position, as `publish.lua` builds it."""
    return b"%s %s %d %s" % (VERSION, position.epoch.encode(), position.offset, body)


def opened(raw: bytes) -> Envelope:
    """Take an envelope apart.

    Raises:
        EnvelopeError: The bytes have not exactly our shape.
    """
    head = _HEAD.match(raw)
    if head is None or len(raw) > ENVELOPE_LIMIT or b"\n" in raw:
        raise EnvelopeError("not an envelope of version 1")
    try:
        # As text: msgspec does not look into `Raw`, and bad UTF-8 would come to light in the push.
        content = _decoder.decode(raw[head.end() :].decode())
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise EnvelopeError(str(error)) from error
    return Envelope(Position(head[1].decode(), int(head[2])), content)
