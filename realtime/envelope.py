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
_HEAD = re.compile(r"1 ([0-9a-f]{16}) ([1-9][0-9]{0,15}) (?=\{)")


class Envelope(NamedTuple):
    """An opened envelope."""

    position: Position
    body: str
    """What it says, still encoded: ``{"data":…,"tags":{…},"info":{…}}`` and no other field."""


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    data: msgspec.Raw
    tags: dict[str, str] | None = None
    info: dict[str, msgspec.Raw] | None = None


_check = msgspec.json.Decoder(_Body).decode


def sealed(position: Position, body: bytes) -> bytes:
    """Return the envelope of a body at a position, as `publish.lua` builds it."""
    return b"%s %s %d %s" % (VERSION, position.epoch.encode(), position.offset, body)


def opened(raw: bytes) -> Envelope:
    """Take an envelope apart.

    Raises:
        EnvelopeError: The bytes have not exactly our shape.
    """
    if len(raw) > ENVELOPE_LIMIT:
        raise EnvelopeError(f"more than {ENVELOPE_LIMIT} bytes")
    try:
        # msgspec does not look into `Raw`: bad UTF-8 would come to light in the push.
        text = raw.decode()
        head = _HEAD.match(text)
        if head is None or "\n" in text:
            raise EnvelopeError("not an envelope of version 1")
        body = text[head.end() :]
        _check(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise EnvelopeError(str(error)) from error
    epoch, offset = head.groups()
    return Envelope(Position(epoch, int(offset)), body)
