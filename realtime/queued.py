"""What is queued for a fallback: how it is written on Redis, and what a handler is given.

An entry is the number of its failed attempts, a space, and one JSON object on one line;
`publish.lua` writes it. Whoever looks with redis-cli can read it, and Lua can count without
touching the JSON, whose numbers cjson would round.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from realtime.errors import EnvelopeError
from realtime.publication import EVENT_TAG, Fallback, Publication

FIRST_SECONDS, LONGEST_SECONDS = 2.0, 3600.0
"""Between two attempts: doubled from the first to the second."""
REASON_LIMIT = 500  # characters of what a handler says about its failure


@dataclass(frozen=True, slots=True)
class Queued:
    """One publication that nobody heard, for its fallback's handler."""

    id: str
    """The same at every attempt, another one for every publication: what to be idempotent with."""
    fallback: str
    channel: str
    data: Any
    tags: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    """What its publisher said to the fallback alone."""
    info: Mapping[str, Any] | None = None
    """Who said it, if a client did: ``{"user": "42", "client": "…", "conn_info": …}``."""
    published_at: float = 0.0
    """Seconds since 1970, by Redis' clock."""
    attempt: int = 1
    """1 is the first."""

    @property
    def event(self) -> str | None:
        """The event's name, if it has one."""
        return self.tags.get(EVENT_TAG)


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry as it stands on Redis, read."""

    failures: int
    said: _Said

    @property
    def id(self) -> str:
        """The publication's."""
        return f"{self.said.epoch}-{self.said.offset}"

    @property
    def fallback(self) -> str:
        """Whose handler is to have it."""
        return self.said.fallback

    @property
    def reason(self) -> str:
        """Why the last attempt failed; empty where none did."""
        return self.said.reason

    @property
    def published_at(self) -> float:
        """Seconds since 1970."""
        return self.said.at / 1000

    @property
    def failed_at(self) -> float:
        """When the last attempt failed, in seconds since 1970; 0.0 where none did."""
        return self.said.failed_at / 1000

    def for_handler(self) -> Queued:
        """Return what the handler is given."""
        said = self.said
        return Queued(
            self.id,
            said.fallback,
            said.channel,
            msgspec.json.decode(said.data),
            tags=said.tags or {},
            options=msgspec.json.decode(said.options) if said.options else {},
            info=msgspec.json.decode(said.info) if said.info else None,
            published_at=self.published_at,
            attempt=self.failures + 1,
        )

    def failed(self, reason: str, now: float) -> bytes:
        """Return the entry after one more attempt that failed, as it is written."""
        said = msgspec.structs.replace(self.said, reason=_short(reason), failed_at=int(now * 1000))
        return _written(self.failures + 1, said)

    def anew(self) -> bytes:
        """Return the entry as if nobody had tried yet, as it is written."""
        return _written(0, msgspec.structs.replace(self.said, reason="", failed_at=0))


_NOTHING = msgspec.Raw()


class _Said(msgspec.Struct, omit_defaults=True):
    epoch: str
    offset: int
    at: int
    channel: str
    fallback: str
    data: msgspec.Raw
    options: msgspec.Raw = _NOTHING
    tags: dict[str, str] | None = None
    info: msgspec.Raw = _NOTHING
    reason: str = ""
    failed_at: int = 0


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Said).decode


def head_of(publication: Publication) -> bytes:
    """Return what `publish.lua` writes between position and body: a part of a JSON object."""
    fallback = publication.fallback or Fallback("")
    # Both names are of characters that need no escape.
    head = f'"channel":"{publication.channel}","fallback":"{fallback.name}"'.encode()
    return head + b',"options":' + fallback.options if fallback.options else head


def opened(raw: bytes) -> Entry:
    """Read an entry.

    Raises:
        EnvelopeError: Somebody else wrote it, or another version.
    """
    count, space, text = raw.partition(b" ")
    if not space or not count.isdigit() or len(count) > 9:
        raise EnvelopeError("an entry begins with a number")
    try:
        return Entry(int(count), _decode(text))
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise EnvelopeError(str(error)) from error


def unreadable(raw: bytes) -> str:
    """Return something that is no entry, as far as it can be shown: escaped, and short."""
    return ascii(raw[:60])


def retry_seconds(failures: int, chance: float) -> float:
    """Return how long to wait after so many failed attempts.

    Half of it is up to chance, so that what failed together does not come back together.

    Args:
        failures: 1 or more.
        chance: From 0.0 to 1.0.
    """
    longest = min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** min(failures - 1, 32))
    return longest * (0.5 + chance / 2)


def _written(failures: int, said: _Said) -> bytes:
    return b"%d %s" % (failures, _encode(said))


def _short(reason: str) -> str:
    # Of one line and printable: operators read it in a terminal (CWE-117).
    text = " ".join(reason.split())
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return text if len(text) <= REASON_LIMIT else f"{text[:REASON_LIMIT]}…"
