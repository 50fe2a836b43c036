"""A publication: one message by one publisher on one channel. Every instance is valid.

The data is decoded and re-encoded compactly here, once, on the publishing side, however many
channels it is published on. Limits count encoded bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from enum import StrEnum
from typing import NamedTuple, TypedDict, Unpack

import msgspec

from realtime.core.json_text import (
    DATA_LIMIT,
    DEPTH_LIMIT,
    canonicalize,
    encode_json,
    to_json_type,
)
from realtime.core.names import (
    ChannelName,
    checked_channel,
    checked_event,
    checked_fallback,
    checked_idempotency_key,
)
from realtime.errors import InvalidData, InvalidName, TooLarge

TAGS_LIMIT = 16
TAG_VALUE_LIMIT = 256  # characters
EVENT_TAG = "event"
SITE = "site"
"""The scope of publications by the host's own code."""
OPTIONS_LIMIT = 4 * 1024  # bytes of compact JSON: an address, a subject, a template name


class Sizes(NamedTuple):
    """Size limits of one publication. A site may lower them, never raise them."""

    data_bytes: int = DATA_LIMIT
    depth: int = DEPTH_LIMIT
    tags: int = TAGS_LIMIT


LARGEST = Sizes()


class When(StrEnum):
    """When a fallback receives a publication."""

    NOBODY = "nobody"
    """If no node is subscribed to the channel: it is delivered live or queued."""
    ALWAYS = "always"
    """Always: it is delivered live and queued."""


class Fallback(NamedTuple):
    """Where a publication goes if nobody is connected to receive it."""

    name: str | None
    """The fallback's name; None is the namespace's fallback."""
    when: When | None = None
    """None is the namespace's value."""
    options: bytes = b""
    """A JSON object for its handler, such as an address; nobody else receives it."""


class PublicationOptions(TypedDict, total=False):
    """The optional parts of a publication, besides its data."""

    event: object
    """The event's name; delivered as the tag ``event``."""
    tags: object
    """Names with string values."""
    idempotency_key: object
    """The same key with the same content is published once in five minutes, for each scope."""
    info: bytes
    """The publishing client, as `client_info` returns it; never a value that a client sent."""
    fallback: object
    """The name of its fallback; None is the fallback of the namespace, if it has one."""
    fallback_when: object
    """``nobody`` or ``always``; None is the namespace's value."""
    fallback_options: object
    """A mapping for the fallback's handler alone."""
    sizes: Sizes
    """Its size limits; `LARGEST` by default."""
    is_decoded: bool
    """Whether the data is what `decode_json` returned; False by default."""
    scope: str
    """Identifies the publisher. Set by our code (`api.keys.Key.scope`), never by the publisher;
    `SITE` by default."""


class Publication(msgspec.Struct, frozen=True):
    """One valid publication; create it with `Publication.of`.

    A struct, because a frozen dataclass took 1.8 µs to create, a seventh of a publish in a batch.
    """

    channel: ChannelName
    body: bytes
    """The envelope's body: ``{"data":…,"tags":{…},"info":{…}}``, compact, on one line."""
    idempotency_key: str | None = None
    fallback: Fallback | None = None
    scope: str = SITE
    """The scope of its idempotency key: equal keys in different scopes are unrelated."""
    _said: str = ""
    """The digest of the body, if there is a key; the same for all channels of a broadcast."""
    sent_ms: int = 0
    """When our code accepted it: milliseconds since 1970, from `stamp`; 0 is unknown."""
    trace: str = ""
    """The W3C traceparent of its publisher, from `stamp`; empty is none."""

    @classmethod
    def of(
        cls, channel: object, data: object, **options: Unpack[PublicationOptions]
    ) -> Publication:
        """Validate and encode a publication.

        Args:
            channel: Its name, see `realtime.core.names`.
            data: Any JSON value as Python objects; dates, UUIDs, Decimals and types registered
                with `to_json_type` are written as strings.
            options: See `PublicationOptions`.

        Raises:
            InvalidName: channel, event, a tag, the idempotency key or the fallback breaks its rule.
            InvalidData: data, tags or options cannot be encoded as JSON.
            TooLarge: data, tags or options exceed their limits.
        """
        return cls.on_channel(checked_channel(channel), data, **options)

    @classmethod
    def on_channel(
        cls, channel: ChannelName, data: object, **options: Unpack[PublicationOptions]
    ) -> Publication:
        """Like `of`, for a channel whose name has already been checked."""
        sizes = options.get("sizes", LARGEST)
        info, key = options.get("info"), options.get("idempotency_key")
        text = encode_json(
            data,
            limit=sizes.data_bytes,
            depth=sizes.depth,
            is_decoded=options.get("is_decoded", False),
        )
        body = _Body(
            data=msgspec.Raw(text),
            tags=_all_tags(options.get("event"), options.get("tags"), sizes.tags),
            info=msgspec.Raw(info) if info else None,
        )
        checked_key = None if key is None else checked_idempotency_key(key)
        queued = _fallback(
            options.get("fallback"), options.get("fallback_when"), options.get("fallback_options")
        )
        encoded = _encoder.encode(body)
        digest = "" if key is None else _digest(encoded)
        return cls(channel, encoded, checked_key, queued, options.get("scope", SITE), digest)

    def on(self, channel: ChannelName) -> Publication:
        """Return a copy for another channel; nothing is checked or encoded again."""
        return msgspec.structs.replace(self, channel=channel)

    def stamp(self, sent_ms: int, trace: str = "") -> Publication:
        """Return a copy with the time and the trace of this attempt to publish it.

        Neither belongs to its content: a retry with the same idempotency key has others.
        """
        return msgspec.structs.replace(self, sent_ms=sent_ms, trace=trace)

    @property
    def tail(self) -> bytes:
        """What follows the position in its envelope: fields (`envelope_fields`), and the body."""
        if self.trace:
            return b"t=%d p=%b %b" % (self.sent_ms, self.trace.encode(), self.body)
        return b"t=%d %b" % (self.sent_ms, self.body) if self.sent_ms else self.body

    @property
    def fingerprint(self) -> str:
        """The identity of a retry: SHA-256 over the whole content, in hex.

        It compares by value (RFC 8259 §4): a program that rebuilds its JSON for each attempt may
        write the members of an object in a different order each time, as Rust's HashMap does.
        """
        said = self._said or _digest(self.body)
        if self.fallback is None:
            return said
        name, when, options = self.fallback
        queued = (said, name, when, canonicalize(options) if options else options)
        return hashlib.sha256(repr(queued).encode()).hexdigest()


class Receipt(NamedTuple):
    """The outcome of a publication that was sent."""

    epoch: str
    offset: int
    nodes: int
    """How many nodes were subscribed to the channel when it was published; not deliveries."""
    repeated: bool = False
    """Whether this is the answer to an earlier publish with the same idempotency key."""
    queued: bool = False
    """Whether it was queued for its fallback."""


def client_info(user: str, client: str, info: str, channel_info: str = "") -> bytes:
    """Return the publishing client as Centrifugo's ``ClientInfo``, in compact JSON.

    Args:
        user: The user's id; empty is anonymous.
        client: The connection's id.
        info: The site's information about it, as compact JSON; empty is nothing.
        channel_info: The site's information about it on this channel, in the same form.
    """
    said = _Info(user=user, client=client, conn_info=_raw(info), chan_info=_raw(channel_info))
    return _encoder.encode(said)


def _raw(info: str) -> msgspec.Raw | None:
    return msgspec.Raw(info.encode()) if info else None


class _Body(msgspec.Struct, omit_defaults=True):
    data: msgspec.Raw
    tags: dict[str, str] | None = None
    info: msgspec.Raw | None = None


class _Info(msgspec.Struct, omit_defaults=True):
    user: str
    client: str
    conn_info: msgspec.Raw | None = None
    chan_info: msgspec.Raw | None = None


_encoder = msgspec.json.Encoder()


def _digest(body: bytes) -> str:
    return hashlib.sha256(canonicalize(body)).hexdigest()


def _fallback(name: object, when: object, options: object) -> Fallback | None:
    if name is None and when is None and options is None:
        return None
    if when is not None and when not in list(When):
        raise InvalidName("fallback", when, f"fallback_when must be one of {', '.join(When)}")
    return Fallback(
        None if name is None else checked_fallback(name),
        None if when is None else When(str(when)),
        b"" if options is None else _options(options),
    )


def _options(options: object) -> bytes:
    if not isinstance(options, Mapping):
        raise InvalidData("must be an object", field="fallback_options")
    return encode_json(options, "fallback_options", OPTIONS_LIMIT)


def _all_tags(event: object, tags: object, limit: int) -> dict[str, str] | None:
    checked = {} if tags is None else _checked_tags(tags, limit)
    if event is not None:
        if checked.get(EVENT_TAG, event) != event:
            raise InvalidName("tags", tags, "the tag `event` differs from the field `event`")
        checked[EVENT_TAG] = checked_event(event)
    return checked or None


def _checked_tags(tags: object, limit: int) -> dict[str, str]:
    if not isinstance(tags, Mapping):
        raise InvalidName("tags", tags, "use an object of names and strings")
    if len(tags) > limit:
        raise TooLarge("tags", len(tags), limit, unit="entries")
    checked = {_tag_name(name): _tag_value(name, value) for name, value in tags.items()}
    if EVENT_TAG in checked:  # the same value, so it must be as safe (an SSE field, CWE-93)
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
            value = to_json_type(value)
    if not isinstance(value, str) or len(value) > TAG_VALUE_LIMIT:
        raise InvalidName(
            "tags",
            {name: value},
            f"the value must be a string of 0 to {TAG_VALUE_LIMIT} characters",
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidName("tags", {name: value}, "the value contains a lone surrogate") from error
    return value
