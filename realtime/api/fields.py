"""The fields of each method of the HTTP API: one declaration of each (ADR-0020).

Which names are known follows from here, and so does what `realtime.openapi` tells the world; the
limits in the schemas are the constants that refuse. Schemas are JSON Schema 2020-12.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from realtime.errors import InvalidData
from realtime.identity import USER_LIMIT
from realtime.names import CHANNEL, EVENT, EVENT_LIMIT, FALLBACK_LIMIT, KEY, KEY_LIMIT
from realtime.publication import OPTIONS_LIMIT, TAG_VALUE_LIMIT, Sizes, When
from realtime.survey import PATTERN_LIMIT

MANY_ITEMS = 100
"""Publications, channels or commands of one request."""
CLIENT_LIMIT = 64  # characters; ours are UUIDs
CODES = range(3000, 5000)
REASON_BYTES = 123  # RFC 6455 §5.5
LATEST = 2**53  # seconds since 1970 that every JSON reader can read

Schema = dict[str, Any]


class Shape(NamedTuple):
    """What of the limits a site may choose."""

    channel_characters: int
    sizes: Sizes
    body_bytes: int
    batch_bytes: int


class Field(NamedTuple):
    """One field of a request."""

    name: str
    about: str
    of: Callable[[Shape], Schema]
    is_required: bool = False

    def schema(self, shape: Shape) -> Schema:
        """Return its schema; null is the same as leaving an optional one out."""
        schema = self.of(shape)
        if not self.is_required and "type" in schema:
            schema = {**schema, "type": [schema["type"], "null"]}
            if "enum" in schema:
                schema["enum"] = [*schema["enum"], None]
        return {**schema, "description": self.about}


class Fields:
    """The fields of a method."""

    def __init__(self, *fields: Field) -> None:
        self._fields = fields
        self.names = frozenset(field.name for field in fields)

    def __iter__(self) -> Iterator[Field]:
        return iter(self._fields)

    def but(self, *names: str) -> Fields:
        """Return the same without some."""
        return Fields(*(field for field in self._fields if field.name not in names))

    def refuse_unknown(self, given: dict[str, Any]) -> None:
        """A misspelt option that was ignored would be a promise that nobody keeps.

        Raises:
            InvalidData: One of the fields is not known.
        """
        for name in given:
            if name not in self.names:
                raise InvalidData(f"unknown field {ascii(name)[:40]}", field="body")

    def schema(self, shape: Shape) -> Schema:
        """Return the schema of an object with these fields and no others."""
        schema: Schema = {
            "type": "object",
            "properties": {field.name: field.schema(shape) for field in self._fields},
            "additionalProperties": False,
        }
        if required := [field.name for field in self._fields if field.is_required]:
            schema["required"] = required
        return schema


def text(most: int, pattern: str = "", least: int = 1) -> Schema:
    """Return the schema of a string of so many characters."""
    schema: Schema = {"type": "string", "minLength": least, "maxLength": most}
    return schema | ({"pattern": f"^{pattern}$"} if pattern else {})


def record(required: Schema, optional: Schema | None = None) -> Schema:
    """Return the schema of an object with these properties and no others."""
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
        "additionalProperties": False,
    }


def ref(name: str) -> Schema:
    """Return what stands for a schema of the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def channel_name(shape: Shape) -> Schema:
    """Return the schema of a channel's name."""
    return text(shape.channel_characters, CHANNEL.pattern)


def _tags(shape: Shape) -> Schema:
    return {
        "type": "object",
        "maxProperties": shape.sizes.tags,
        "propertyNames": text(EVENT_LIMIT, EVENT.pattern),
        "additionalProperties": text(TAG_VALUE_LIMIT, least=0),
        "examples": [{"shop": "7"}],
    }


def _data(shape: Shape) -> Schema:
    kib, levels = shape.sizes.data_bytes // 1024, shape.sizes.depth
    note = f"At most {kib} KiB as compact JSON, at most {levels} levels deep."
    return {"$comment": note, "examples": [{"text": "Hello"}]}


def _always(schema: Schema) -> Callable[[Shape], Schema]:
    return lambda _: schema


def _means_nothing(name: str) -> Field:
    return Field(name, "Centrifugo's; accepted, and means nothing here.", _always({}))


CHANNEL_FIELD = Field(
    "channel",
    "Where; what stands before the first `:` is the namespace, which must be configured.",
    lambda shape: channel_name(shape) | {"examples": ["public:news"]},
    is_required=True,
)
CHANNELS_FIELD = Field(
    "channels",
    "Where; each has its own item in the answer.",
    lambda shape: {
        "type": "array",
        "minItems": 1,
        "maxItems": MANY_ITEMS,
        "items": channel_name(shape),
        "examples": [["public:a", "public:b"]],
    },
    is_required=True,
)
_WHAT = (
    Field("data", "What is published: any JSON value.", _data, is_required=True),
    Field(
        "event",
        "What happened; delivered as the tag `event`.",
        _always(text(EVENT_LIMIT, EVENT.pattern) | {"examples": ["order.shipped"]}),
    ),
    Field("tags", "Names and texts, delivered beside the data.", _tags),
    Field(
        "idempotency_key",
        "The same key with the same content is published once in five minutes.",
        _always(text(KEY_LIMIT, KEY.pattern) | {"examples": ["order-7-shipped"]}),
    ),
    Field(
        "fallback",
        "Who gets it if no node listens; without it the namespace's, if it has one.",
        _always(text(FALLBACK_LIMIT, EVENT.pattern)),
    ),
    Field(
        "fallback_when",
        "`nobody`: where no node listens; `always`: whoever listens.",
        _always({"type": "string", "enum": [str(when) for when in When]}),
    ),
    Field(
        "fallback_options",
        f"For the fallback alone, at most {OPTIONS_LIMIT // 1024} KiB, such as an address.",
        _always({"type": "object"}),
    ),
    _means_nothing("skip_history"),
    _means_nothing("delta"),
)
PUBLISH = Fields(CHANNEL_FIELD, *_WHAT)
BROADCAST = Fields(CHANNELS_FIELD, *_WHAT)


def _commands(_: Shape) -> Schema:
    note = "`publish` or `broadcast` with their fields; of anything else the reply is an error."
    return {
        "type": "array",
        "maxItems": MANY_ITEMS,
        "items": {"description": note},
        "examples": [[{"publish": {"channel": "public:news", "data": 1}}]],
    }


BATCH = Fields(
    Field(
        "commands",
        f"In order, with at most {MANY_ITEMS} publications in all; each has its own reply.",
        _commands,
        is_required=True,
    ),
    _means_nothing("parallel"),
)

USER = Field(
    "user",
    "The id of the user: a token's `sub`, or of who has logged in.",
    _always(text(USER_LIMIT) | {"examples": ["42"]}),
    is_required=True,
)
CLIENT = Field(
    "client",
    "Only the connection with this id.",
    _always({"type": "string", "maxLength": CLIENT_LIMIT}),
)
DISCONNECT = Fields(
    USER,
    CLIENT,
    Field(
        "disconnect",
        "How: from 3500 to 3999 and from 4500 on the client stays away. The default is 3503.",
        _always(
            {
                "type": "object",
                "properties": {
                    "code": {"type": "integer", "minimum": CODES[0], "maximum": CODES[-1]},
                    "reason": {
                        "type": "string",
                        "maxLength": REASON_BYTES,
                        "description": f"At most {REASON_BYTES} bytes in UTF-8.",
                    },
                },
                "required": ["code", "reason"],
                "additionalProperties": False,
                "examples": [{"code": 4000, "reason": "moved"}],
            }
        ),
    ),
)
SUBSCRIBE = Fields(USER, CLIENT, CHANNEL_FIELD)
UNSUBSCRIBE = Fields(USER, CLIENT, CHANNEL_FIELD)
REFRESH = Fields(
    USER,
    CLIENT,
    Field("expired", "The identity has expired now.", _always({"type": "boolean"})),
    Field(
        "expire_at",
        "Until when the user is welcome, in whole seconds since 1970.",
        _always({"type": "integer", "minimum": 0, "exclusiveMaximum": LATEST}),
    ),
)
INFO = Fields()
CHANNELS = Fields(
    Field(
        "pattern",
        "Which; `*` stands for anything, `?` for one character.",
        _always(text(PATTERN_LIMIT, "[!-~]*", least=0) | {"examples": ["chat:*"]}),
    )
)
PRESENCE = Fields(
    Field(
        "channel",
        "Where; its namespace has `presence` or `join_leave`.",
        lambda shape: channel_name(shape) | {"examples": ["chat:lobby"]},
        is_required=True,
    )
)
