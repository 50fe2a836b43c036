"""The fields of each method of the HTTP API: one declaration of each (ADR-0020).

The names of known fields and the descriptions of `realtime.http.openapi` are derived from these
declarations; the limits in the schemas are the constants that the checks use. Schemas are JSON
Schema 2020-12.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from realtime.core.connection_survey import NAMES_LIMIT, PAGE_DEFAULT, PAGE_LIMIT
from realtime.core.identity import USER_LIMIT
from realtime.core.names import (
    CHANNEL,
    EVENT,
    EVENT_LIMIT,
    FALLBACK_LIMIT,
    KEY,
    KEY_LIMIT,
)
from realtime.core.publication import (
    OPTIONS_LIMIT,
    TAG_VALUE_LIMIT,
    Sizes,
    When,
)
from realtime.core.survey import PATTERN_LIMIT

MANY_ITEMS = 100
"""Publications, channels or commands of one request."""
CLIENT_LIMIT = 64  # characters; ours are UUIDs
CODES = range(3000, 5000)
REASON_BYTES = 123  # RFC 6455 §5.5
BLOCK_SECONDS = 10**9  # 31 years
LATEST = 2**53  # seconds since 1970 that every JSON reader can read

Schema = dict[str, Any]


class Shape(NamedTuple):
    """The limits that a site can configure."""

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
        """Return its schema; an optional field may be null, as if it were omitted."""
        schema = self.of(shape)
        if not self.is_required and "type" in schema:
            schema = {**schema, "type": [schema["type"], "null"]}
            if "enum" in schema:
                schema["enum"] = [*schema["enum"], None]
        return {**schema, "description": self.about}


class Fields:
    """The fields of a method."""

    def __init__(self, *fields: Field, example: Mapping[str, Any] | None = None) -> None:
        """Take the fields; the example is needed if the required ones alone are not a request."""
        self._fields = fields
        self._example = example
        self.names = frozenset(field.name for field in fields)

    def __iter__(self) -> Iterator[Field]:
        return iter(self._fields)

    def but(self, *names: str) -> Fields:
        """Return the fields without some."""
        return Fields(*(field for field in self._fields if field.name not in names))

    def schema(self, shape: Shape) -> Schema:
        """Return the schema of an object with these fields and no others."""
        schema: Schema = {
            "type": "object",
            "properties": {field.name: field.schema(shape) for field in self._fields},
            "additionalProperties": False,
        }
        if required := [field.name for field in self._fields if field.is_required]:
            schema["required"] = required
        if self._example is not None:
            schema["examples"] = [dict(self._example)]
        return schema


def text(most: int, pattern: str = "", least: int = 1) -> Schema:
    """Return the schema of a string with ``least`` to ``most`` characters."""
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
    """Return a reference to a schema of the document."""
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
    note = f"At most {kib} KiB as compact JSON, nested at most {levels} levels deep."
    return {"$comment": note, "examples": [{"text": "Hello"}]}


def _always(schema: Schema) -> Callable[[Shape], Schema]:
    return lambda _: schema


def _means_nothing(name: str) -> Field:
    return Field(name, "Accepted for compatibility with Centrifugo; ignored.", _always({}))


CHANNEL_FIELD = Field(
    "channel",
    "Channel to use. The part before the first `:` is the namespace, which must be configured.",
    lambda shape: channel_name(shape) | {"examples": ["public:news"]},
    is_required=True,
)
CHANNELS_FIELD = Field(
    "channels",
    "Channels to publish to. The response has an item for each.",
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
    Field("data", "Data to publish: any JSON value.", _data, is_required=True),
    Field(
        "event",
        "Name of the event, delivered as the tag `event`.",
        _always(text(EVENT_LIMIT, EVENT.pattern) | {"examples": ["order.shipped"]}),
    ),
    Field("tags", "Tags delivered with the data: names and strings.", _tags),
    Field(
        "idempotency_key",
        "Requests with the same key and content within five minutes are published once.",
        _always(text(KEY_LIMIT, KEY.pattern) | {"examples": ["order-7-shipped"]}),
    ),
    Field(
        "fallback",
        "Fallback that handles the publication if no node is subscribed. The default is the "
        "fallback of the namespace, if any.",
        _always(text(FALLBACK_LIMIT, EVENT.pattern)),
    ),
    Field(
        "fallback_when",
        "`nobody`: run the fallback only if no node is subscribed; `always`: run it in any case.",
        _always({"type": "string", "enum": [str(when) for when in When]}),
    ),
    Field(
        "fallback_options",
        f"Options for the fallback, such as an address. At most {OPTIONS_LIMIT // 1024} KiB.",
        _always({"type": "object"}),
    ),
    _means_nothing("skip_history"),
    _means_nothing("delta"),
)
PUBLISH = Fields(CHANNEL_FIELD, *_WHAT)
BROADCAST = Fields(CHANNELS_FIELD, *_WHAT)


def _commands(_: Shape) -> Schema:
    note = (
        "A `publish` or `broadcast` object with its fields. Any other command gets an error reply."
    )
    return {
        "type": "array",
        "maxItems": MANY_ITEMS,
        "items": {"description": note},
        "examples": [[{"publish": {"channel": "public:news", "data": 1}}]],
    }


BATCH = Fields(
    Field(
        "commands",
        f"Commands to run in order, with at most {MANY_ITEMS} publications in total.",
        _commands,
        is_required=True,
    ),
    _means_nothing("parallel"),
)

USER = Field(
    "user",
    "ID of the user: the `sub` of a token, or the ID of a logged-in user.",
    _always(text(USER_LIMIT) | {"examples": ["42"]}),
    is_required=True,
)
CLIENT = Field(
    "client",
    "Limits the command to the connection with this ID.",
    _always({"type": "string", "maxLength": CLIENT_LIMIT}),
)
DISCONNECT = Fields(
    USER,
    CLIENT,
    Field(
        "disconnect",
        "Close code and reason. Clients do not reconnect after codes 3500 to 3999 and from 4500. "
        "The default is 3503.",
        _always(
            {
                "type": "object",
                "properties": {
                    "code": {"type": "integer", "minimum": CODES[0], "maximum": CODES[-1]},
                    "reason": {
                        "type": "string",
                        "maxLength": REASON_BYTES,
                        "description": f"At most {REASON_BYTES} bytes of UTF-8.",
                    },
                },
                "required": ["code", "reason"],
                "additionalProperties": False,
                "examples": [{"code": 4000, "reason": "moved"}],
            }
        ),
    ),
)
BLOCK_USER = Fields(
    USER,
    Field(
        "until",
        "End of the block, in whole seconds since 1970.",
        _always({"type": "integer", "minimum": 0, "exclusiveMaximum": LATEST}),
    ),
    Field(
        "seconds",
        "Length of the block, instead of `until`.",
        _always({"type": "integer", "minimum": 1, "maximum": BLOCK_SECONDS}),
    ),
    example={"user": "42", "seconds": 3600},
)
UNBLOCK_USER = Fields(USER)
SUBSCRIBE = Fields(USER, CLIENT, CHANNEL_FIELD)
UNSUBSCRIBE = Fields(USER, CLIENT, CHANNEL_FIELD)
REFRESH = Fields(
    USER,
    CLIENT,
    Field("expired", "If true, the connections expire now.", _always({"type": "boolean"})),
    Field(
        "expire_at",
        "New expiry time, in whole seconds since 1970.",
        _always({"type": "integer", "minimum": 0, "exclusiveMaximum": LATEST}),
    ),
)
INFO = Fields()
CHANNELS = Fields(
    Field(
        "pattern",
        "Pattern of channel names: `*` matches any text, `?` one character.",
        _always(text(PATTERN_LIMIT, "[!-~]*", least=0) | {"examples": ["chat:*"]}),
    )
)
CONNECTIONS = Fields(
    Field(
        "user",
        "Limits the list to the connections of this user.",
        _always(text(USER_LIMIT) | {"examples": ["42"]}),
    ),
    Field(
        "channel",
        "Limits the list to connections that are subscribed to this channel. Required for a key "
        "that may use only some channels.",
        lambda shape: channel_name(shape) | {"examples": ["public:news"]},
    ),
    Field(
        "channels",
        f"If true, the channels of each connection are listed, at most {NAMES_LIMIT}.",
        _always({"type": "boolean"}),
    ),
    Field(
        "limit",
        f"Maximum number of connections. The default is {PAGE_DEFAULT}.",
        _always({"type": "integer", "minimum": 1, "maximum": PAGE_LIMIT}),
    ),
    Field(
        "after",
        "Client ID of the last connection of the previous page.",
        _always({"type": "string", "maxLength": CLIENT_LIMIT}),
    ),
)
POSITION = Fields(
    Field(
        "channels",
        "Channels to read. The response has the position of each.",
        lambda shape: {
            "type": "array",
            "minItems": 1,
            "maxItems": MANY_ITEMS,
            "items": channel_name(shape),
            "examples": [["public:news"]],
        },
        is_required=True,
    )
)
PRESENCE = Fields(
    Field(
        "channel",
        "Channel in a namespace with `presence` or `join_leave`.",
        lambda shape: channel_name(shape) | {"examples": ["chat:lobby"]},
        is_required=True,
    )
)
