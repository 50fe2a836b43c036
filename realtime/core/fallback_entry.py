"""A publication queued for a fallback: its format on Redis, and the object a handler receives.

An entry is the number of failed attempts, a space, and one JSON object on one line; `publish.lua`
writes it. It is readable in redis-cli, and Lua can increment the count without decoding the JSON,
whose numbers cjson would round.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec

from realtime.core.publication import EVENT_TAG, Fallback, Publication
from realtime.core.traceparent import read_traceparent
from realtime.errors import EnvelopeError

FIRST_SECONDS, LONGEST_SECONDS = 2.0, 3600.0
"""The delay between attempts. It starts at `FIRST_SECONDS` and doubles up to `LONGEST_SECONDS`."""
REASON_LIMIT = 500  # characters of a handler's failure message


@dataclass(frozen=True, slots=True)
class Queued:
    """A publication handed to a fallback, with the fields its handler needs."""

    id: str
    """Same for every attempt, unique per publication: use it as the idempotency key."""
    fallback: str
    channel: str
    data: Any
    tags: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    """The publisher's options for the fallback alone."""
    info: Mapping[str, Any] | None = None
    """The client that published it, if any: ``{"user": "42", "client": "…", "conn_info": …}``."""
    published_at: float = 0.0
    """Seconds since 1970, by Redis' clock."""
    attempt: int = 1
    """Counts from 1."""
    trace: str = ""
    """The W3C ``traceparent`` of the publisher, or of this attempt; empty without tracing."""

    @property
    def event(self) -> str | None:
        """The event's name, if it has one."""
        return self.tags.get(EVENT_TAG)


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry as read from Redis."""

    failures: int
    said: _Said
    queued: Queued
    """The object that the handler receives."""

    @property
    def id(self) -> str:
        """The publication's id."""
        return self.queued.id

    @property
    def fallback(self) -> str:
        """The name of the fallback whose handler receives it."""
        return self.queued.fallback

    @property
    def reason(self) -> str:
        """Why the last attempt failed; empty if none did."""
        return self.said.reason

    @property
    def published_at(self) -> float:
        """Seconds since 1970."""
        return self.queued.published_at

    @property
    def failed_at(self) -> float:
        """When the last attempt failed, in seconds since 1970; 0.0 if none did."""
        return self.said.failed_at / 1000

    def encode_failed(self, reason: str, now: float, options: bytes | None = None) -> bytes:
        """Return the encoded entry after one more failed attempt.

        Args:
            reason: Why it failed.
            now: Seconds since 1970.
            options: New options, a JSON object, which replace the publisher's; None keeps those.
        """
        said = msgspec.structs.replace(self.said, reason=_short(reason), failed_at=int(now * 1000))
        if options is not None:
            said.options = msgspec.Raw(options)
        return _encode_entry(self.failures + 1, said)

    def encode_reset(self) -> bytes:
        """Return the encoded entry with its attempts reset."""
        return _encode_entry(0, msgspec.structs.replace(self.said, reason="", failed_at=0))


_NOTHING = msgspec.Raw()
_Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class _Said(msgspec.Struct, omit_defaults=True):
    epoch: str
    offset: int
    at: _Milliseconds
    channel: str
    fallback: str
    data: msgspec.Raw
    options: msgspec.Raw = _NOTHING
    tags: dict[str, str] | None = None
    info: msgspec.Raw = _NOTHING
    reason: str = ""
    failed_at: _Milliseconds = 0
    trace: str = ""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Said).decode
_decode_object = msgspec.json.Decoder(dict[str, Any]).decode


def entry_fields(publication: Publication) -> bytes:
    """Return the part of a JSON object that `publish.lua` writes between position and body."""
    fallback = publication.fallback or Fallback("")
    # No character of a name or a traceparent needs escaping.
    middle = f'"channel":"{publication.channel}","fallback":"{fallback.name}"'
    if publication.trace:
        middle += f',"trace":"{publication.trace}"'
    head = middle.encode()
    return head + b',"options":' + fallback.options if fallback.options else head


def decode_entry(raw: bytes) -> Entry:
    """Parse an entry.

    Raises:
        EnvelopeError: It was written by something else, or by another version.
    """
    count, space, text = raw.partition(b" ")
    if not space or not count.isdigit() or len(count) > 9:
        raise EnvelopeError("an entry must begin with a number")
    try:
        said = _decode(text)
        return Entry(int(count), said, _for_handler(said, int(count) + 1))
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise EnvelopeError(str(error)) from error


def excerpt_of(raw: bytes) -> str:
    """Return a printable excerpt of bytes that are not an entry: escaped and short."""
    return ascii(raw[:60])


def retry_seconds(failures: int, chance: float) -> float:
    """Return the delay after this many failed attempts.

    Half of it is random, so that entries which failed together are not retried together.

    Args:
        failures: 1 or more.
        chance: From 0.0 to 1.0.
    """
    longest = min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** min(failures - 1, 32))
    return longest * (0.5 + chance / 2)


def _for_handler(said: _Said, attempt: int) -> Queued:
    """Decode the fields that are stored as `Raw`; they come from Redis, so they may be anything."""
    return Queued(
        f"{said.epoch}-{said.offset}",
        said.fallback,
        said.channel,
        msgspec.json.decode(said.data),
        tags=said.tags or {},
        options=_decode_object(said.options) if said.options else {},
        info=_decode_object(said.info) if said.info else None,
        published_at=said.at / 1000,
        attempt=attempt,
        trace=read_traceparent(said.trace),
    )


def _encode_entry(failures: int, said: _Said) -> bytes:
    return b"%d %s" % (failures, _encode(said))


def _short(reason: str) -> str:
    # One printable line: operators read it in a terminal (CWE-117).
    text = " ".join(reason.split())
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return text if len(text) <= REASON_LIMIT else f"{text[:REASON_LIMIT]}…"
