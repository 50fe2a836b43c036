"""The wire format of a publication on Redis.

One line: version, epoch, offset, up to eight fields and the body, separated by single spaces::

    1 6f1c2a90b4d7e833 42 t=1790000000000 {"data":{"n":1},"tags":{"event":"order.shipped"}}

`publish.lua` writes it, since only the script knows the position; `encode_envelope` is its Python
counterpart, for tests and as a reference for readers. `decode_envelope` trusts nothing: anyone with
access to Redis can publish there.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec

from realtime.core.envelope_fields import FIELDS, read_time
from realtime.core.positions import Position
from realtime.core.traceparent import read_traceparent
from realtime.errors import EnvelopeError

ENVELOPE_LIMIT = 96 * 1024
"""64 KiB of data, plus 17 KiB of tags (16 names of 64 bytes and values of 256 characters of up to 4
bytes) or 8 KiB of client info; the rest is headroom, also for escapes."""
_HEAD = re.compile(rf"1 ([0-9a-f]{{16}}) ([1-9][0-9]{{0,15}}) {FIELDS}(?=\{{)")


class Envelope(NamedTuple):
    """A parsed envelope."""

    position: Position
    body: str
    """Still encoded: ``{"data":…,"tags":{…},"info":{…}}`` and no other field."""
    sent_ms: int = 0
    """When our code accepted it, by the publisher's clock: milliseconds since 1970; 0: unknown."""
    trace: str = ""
    """The publisher's W3C traceparent; empty is none."""


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    data: msgspec.Raw
    tags: dict[str, str] | None = None
    info: dict[str, msgspec.Raw] | None = None


_check = msgspec.json.Decoder(_Body).decode


def encode_envelope(position: Position, tail: bytes) -> bytes:
    """Return the envelope of fields and a body at a position, as `publish.lua` writes it."""
    return b"1 %s %d %s" % (position.epoch.encode(), position.offset, tail)


def decode_envelope(raw: bytes) -> Envelope:
    """Parse an envelope.

    Raises:
        EnvelopeError: The bytes do not have exactly our format.
    """
    if len(raw) > ENVELOPE_LIMIT:
        raise EnvelopeError(f"more than {ENVELOPE_LIMIT} bytes")
    try:
        # msgspec does not look into `Raw`: invalid UTF-8 would only surface in the push.
        text = raw.decode()
        head = _HEAD.match(text)
        if head is None or "\n" in text:
            raise EnvelopeError("not an envelope of version 1")
        body = text[head.end() :]
        _check(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise EnvelopeError(str(error)) from error
    epoch, offset, time, trace = head.groups()
    sent_ms = read_time(time) if time else 0
    return Envelope(
        Position(epoch, int(offset)), body, sent_ms, read_traceparent(trace) if trace else ""
    )
