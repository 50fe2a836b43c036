"""A publication: what one publisher says on one channel. One that exists is valid.

The data is decoded and encoded again compactly here, once, on the publishing side. Nothing is ever
passed through raw: a raw newline would split a frame, and what msgspec refuses (NaN, lone
surrogates, bad UTF-8) no browser can parse. Limits count encoded bytes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import singledispatch
from typing import NamedTuple

import msgspec

from realtime.errors import InvalidData, InvalidName, TooLarge
from realtime.names import (
    checked_channel,
    checked_event,
    checked_fallback,
    checked_idempotency_key,
)

ESCAPED = 6
"""Bytes at most in which a client may write one byte of what we keep: ``\\u0041`` is A (RFC 8259
§7). Two bytes of UTF-8 take 6, four take 12 (a surrogate pair), a control character stays as it is.
"""
DATA_LIMIT = 64 * 1024  # bytes of compact JSON; Centrifugo 64 KiB, Pusher 10 KB
DEPTH_LIMIT = (
    32  # nested arrays and objects; what people send has 4 or 5, a stack overflow needs hundreds
)
TAGS_LIMIT = 16
TAG_VALUE_LIMIT = 256  # characters
EVENT_TAG = "event"
SITE = "site"
"""The scope of what a host's own code publishes."""
OPTIONS_LIMIT = 4 * 1024  # bytes of compact JSON; an address, a subject, a name of a template


class Sizes(NamedTuple):
    """What one publication may hold. A site may allow less, never more."""

    data_bytes: int = DATA_LIMIT
    depth: int = DEPTH_LIMIT
    tags: int = TAGS_LIMIT


LARGEST = Sizes()


class When(StrEnum):
    """When a fallback gets a publication."""

    NOBODY = "nobody"
    """Where no node listens to its channel: it is live or queued."""
    ALWAYS = "always"
    """It is live and queued."""


class Fallback(NamedTuple):
    """Where a publication goes when nobody is there."""

    name: str | None
    """Of a fallback; None is the one of the namespace."""
    when: When | None = None
    """None is as the namespace says."""
    options: bytes = b""
    """A JSON object for its handler, such as an address; it is delivered to nobody else."""


@dataclass(frozen=True, slots=True)
class Publication:
    """One valid publication; make it with `Publication.of`."""

    channel: str
    body: bytes
    """What the envelope carries: ``{"data":…,"tags":{…},"info":{…}}``, compact, on one line."""
    idempotency_key: str | None = None
    fallback: Fallback | None = None
    scope: str = SITE
    """Whose idempotency key it is: two publishers with the same key have nothing in common."""

    @classmethod
    def of(
        cls,
        channel: object,
        data: object,
        *,
        event: object = None,
        tags: object = None,
        idempotency_key: object = None,
        info: bytes = b"",
        fallback: object = None,
        fallback_when: object = None,
        fallback_options: object = None,
        sizes: Sizes = LARGEST,
        scope: str = SITE,
    ) -> Publication:
        """Check everything and encode it.

        Args:
            channel: Its name, see `realtime.names`.
            data: Any JSON value as Python objects; dates, UUIDs, Decimals and what is registered
                with `plain` are written as strings.
            event: The event's name; delivered as the tag ``event``.
            tags: Names with string values.
            idempotency_key: The same key with the same content is published once in five minutes,
                for each scope.
            info: Who says it, if a client does: `client_info`, never what anybody sent.
            fallback: Who gets it when nobody is there; None is whom the namespace names, if any.
            fallback_when: ``nobody`` or ``always``; None is as the namespace says.
            fallback_options: A mapping for the fallback alone.
            sizes: What it may hold.
            scope: Who publishes, never in words of their own: `realtime.keys.Key.scope`.

        Raises:
            InvalidName: channel, event, a tag, the idempotency key or the fallback breaks its rule.
            InvalidData: data, tags or options cannot be JSON.
            TooLarge: data, tags or options exceed their limits.
        """
        name = checked_channel(channel)
        body = _Body(
            data=msgspec.Raw(encoded(data, limit=sizes.data_bytes, depth=sizes.depth)),
            tags=_all_tags(event, tags, sizes.tags),
            info=msgspec.Raw(info) if info else None,
        )
        key = None if idempotency_key is None else checked_idempotency_key(idempotency_key)
        queued = _fallback(fallback, fallback_when, fallback_options)
        return cls(name, _encoder.encode(body), key, queued, scope)

    @property
    def fingerprint(self) -> str:
        """What makes a retry the same publication: SHA-256 over all that it says, in hex.

        By value (RFC 8259 §4): a program that builds its JSON anew for each attempt may write the
        members of an object in another order each time, as Rust's HashMap does.
        """
        digest = hashlib.sha256(_canonical(self.body))
        if self.fallback is not None:
            name, when, options = self.fallback
            said = (name, when, _canonical(options) if options else options)
            digest.update(repr(said).encode())  # the body has no raw newline
        return digest.hexdigest()


class Receipt(NamedTuple):
    """What became of a publication that is out."""

    epoch: str
    offset: int
    nodes: int
    """How many nodes were subscribed to the channel when it was published; not deliveries."""
    repeated: bool = False
    """Whether this is the answer to an earlier publish with the same idempotency key."""
    queued: bool = False
    """Whether its fallback has it."""


def client_info(user: str, client: str, info: str, channel_info: str = "") -> bytes:
    """Return who says something, as Centrifugo's ``ClientInfo``, in compact JSON.

    Args:
        user: Its user; empty is nobody.
        client: The id of its connection.
        info: What the site says about it, as compact JSON; empty is nothing.
        channel_info: What it says about it on this channel, ditto.
    """
    said = _Info(user=user, client=client, conn_info=_raw(info), chan_info=_raw(channel_info))
    return _encoder.encode(said)


def _raw(info: str) -> msgspec.Raw | None:
    return msgspec.Raw(info.encode()) if info else None


def decoded(raw: bytes) -> object:
    """Return the JSON value that somebody sent.

    Raises:
        InvalidData: It is not JSON that everybody can read.
    """
    try:
        return msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise InvalidData(str(error)) from error
    except RecursionError as error:
        raise InvalidData(f"nested deeper than {DEPTH_LIMIT} levels") from error


def encoded(
    value: object, field: str = "data", limit: int = DATA_LIMIT, depth: int = DEPTH_LIMIT
) -> bytes:
    """Return a value as compact JSON that everybody can read, on one line.

    Raises:
        InvalidData: It cannot be JSON, or is nested too deeply.
        TooLarge: It has more bytes than the limit.
    """
    try:
        text = _encoder.encode(value)
        if len(text) > limit:
            raise TooLarge(field, len(text), limit)
        _refuse_what_json_hides(value, text, depth)
    except RecursionError as error:
        raise InvalidData(f"nested deeper than {depth} levels", field=field) from error
    except UnicodeEncodeError as error:
        raise InvalidData(
            "a string has a lone surrogate, which is not Unicode text", field=field
        ) from error
    except (TypeError, ValueError, OverflowError, msgspec.DecodeError) as error:
        raise InvalidData(str(error), field=field) from error
    return text


class _Body(msgspec.Struct, omit_defaults=True):
    data: msgspec.Raw
    tags: dict[str, str] | None = None
    info: msgspec.Raw | None = None


class _Info(msgspec.Struct, omit_defaults=True):
    user: str
    client: str
    conn_info: msgspec.Raw | None = None
    chan_info: msgspec.Raw | None = None


@singledispatch
def plain(value: object) -> object:
    """Return a value that msgspec can encode for one that it leaves to us.

    Register a type to make values of it publishable: rings above know more of them than we do.

    Raises:
        TypeError: Nobody knows how.
    """
    raise TypeError(f"{type(value).__name__} is not JSON")


plain.register(str, str.__str__)  # subclasses, such as Django's SafeString
plain.register(int, int)
plain.register(float, float)
plain.register(Mapping, dict)


def _canonical(text: bytes) -> bytes:
    """Return JSON in one way of all that are possible: members sorted, 1.0 as 1.

    It costs as much as reading and writing it: 1.3 µs for 200 bytes, 0.7 ms for 50 KiB. So it is
    for publications with an idempotency key alone.
    """
    try:
        return _sorting.encode(_by_value(text))
    except msgspec.MsgspecError:  # `msgspec.Raw` with a number that is no double
        return text


def _number(text: str) -> int | float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("is no double")
    return int(number) if number.is_integer() and abs(number) <= _EXACT else number


_EXACT = 2.0**53  # beyond it not every integer is a double, and 1e300 has 301 digits
_sorting = msgspec.json.Encoder(order="sorted")
_by_value = msgspec.json.Decoder(float_hook=_number).decode
_encoder = msgspec.json.Encoder(enc_hook=plain)
_scan = msgspec.json.Decoder(msgspec.Raw).decode


def _refuse_what_json_hides(data: object, encoded: bytes, depth: int) -> None:
    """Walk the data, but only where its bytes show that there may be something to find.

    msgspec writes NaN as ``null``, and brackets are counted inside strings too; both only cost a
    needless walk. What it copies unread, `msgspec.Raw`, shows when the bytes are scanned.
    """
    deep = encoded.count(b"[") + encoded.count(b"{") > depth
    if deep or b"null" in encoded:
        _walk(msgspec.to_builtins(data, enc_hook=plain), depth, depth)
    if b"\n" in encoded:
        raise ValueError("msgspec.Raw must be one line")
    _scan(encoded.decode())


def _walk(value: object, levels: int, depth: int) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("NaN and infinity are not JSON (RFC 8259 §6)")
    if isinstance(value, dict):
        children = list(value.values())
    elif isinstance(value, list | tuple):
        children = list(value)
    else:
        return
    if levels == 0:
        raise ValueError(f"nested deeper than {depth} levels")
    for child in children:
        _walk(child, levels - 1, depth)


def _fallback(name: object, when: object, options: object) -> Fallback | None:
    if name is None and when is None and options is None:
        return None
    if when is not None and when not in list(When):
        raise InvalidName("fallback", when, f"fallback_when is one of {', '.join(When)}")
    return Fallback(
        None if name is None else checked_fallback(name),
        None if when is None else When(str(when)),
        b"" if options is None else _options(options),
    )


def _options(options: object) -> bytes:
    if not isinstance(options, Mapping):
        raise InvalidData("an object is meant", field="fallback_options")
    return encoded(options, "fallback_options", OPTIONS_LIMIT)


def _all_tags(event: object, tags: object, limit: int) -> dict[str, str] | None:
    checked = {} if tags is None else _checked_tags(tags, limit)
    if event is not None:
        if checked.get(EVENT_TAG, event) != event:
            raise InvalidName("tags", tags, "its `event` is another one than `event`")
        checked[EVENT_TAG] = checked_event(event)
    return checked or None


def _checked_tags(tags: object, limit: int) -> dict[str, str]:
    if not isinstance(tags, Mapping):
        raise InvalidName("tags", tags, "an object of names and strings is meant")
    if len(tags) > limit:
        raise TooLarge("tags", len(tags), limit, unit="entries")
    checked = {_tag_name(name): _tag_value(name, value) for name, value in tags.items()}
    if EVENT_TAG in checked:  # the same thing, and it must be as safe (an SSE field, CWE-93)
        checked_event(checked[EVENT_TAG])
    return checked


def _tag_name(name: object) -> str:
    try:
        return checked_event(name)
    except InvalidName as error:
        raise InvalidName("tags", name, error.rule) from None


def _tag_value(name: object, value: object) -> str:
    if not isinstance(value, str):
        with suppress(TypeError):
            value = plain(value)
    if not isinstance(value, str) or len(value) > TAG_VALUE_LIMIT:
        raise InvalidName(
            "tags",
            {name: value},
            f"the value must be a string of 0 to {TAG_VALUE_LIMIT} characters",
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidName("tags", {name: value}, "the value has a lone surrogate") from error
    return value
