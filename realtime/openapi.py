"""The HTTP API in the words of OpenAPI 3.1, made of what its methods are declared by.

Fields and limits come from `realtime.api.fields` and `realtime.cloudevents`, statuses and reasons
from `realtime.api.answers`. What is only said here is held against the running service by
tests/e2e/test_description.py, with schemathesis.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from realtime import __version__, cloudevents
from realtime.api import fields
from realtime.api.answers import STATUSES
from realtime.api.fields import Fields, Schema, Shape, channel_name, record, ref, text
from realtime.brokers import Stats
from realtime.names import EVENT, EVENT_LIMIT, KEY, KEY_LIMIT
from realtime.publication import TAG_VALUE_LIMIT

JSON = "application/json"

# What any method may answer; then what those may that publish, and those that ask nodes or Redis.
_ANY = (
    *("bad_request", "invalid_json", "invalid_data", "token_in_url", "unauthorized", "forbidden"),
    *("csrf_failed", "method_not_allowed", "request_timeout", "too_large"),
    *("unsupported_media_type", "broker_unavailable", "configuration", "session_unavailable"),
    "outcome_unknown",
)
_PUBLISHES = (
    *("invalid_channel", "invalid_event", "invalid_tags", "invalid_idempotency_key"),
    *("invalid_fallback", "idempotency_conflict", "rate_limited", "queue_full"),
)
_HEAD_TOO_LARGE = 431  # of no reason of its own: servers answer it before there is a method
_COUNT: Schema = {"type": "integer", "minimum": 0}
_IN_SECONDS = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."}}


class Method(NamedTuple):
    """A method of the API."""

    summary: str
    about: str
    fields: Fields | None
    """None where the body is no object of fields."""
    result: str
    """Which of the schemas its answer is."""
    reasons: tuple[str, ...] = ()
    """Beside those of any method."""
    group: str = "Publishing"
    takes_idempotency_key: bool = False


METHODS: dict[str, Method] = {
    "publish": Method(
        "Publish",
        "Publish on one channel. Everybody who listens there, at any node, hears it now.",
        fields.PUBLISH,
        "Published",
        _PUBLISHES,
        takes_idempotency_key=True,
    ),
    "broadcast": Method(
        "Publish on many channels",
        "The same publication on up to 100 channels, as one step. Each has its own item.",
        fields.BROADCAST,
        "PublishedMany",
        _PUBLISHES,
        takes_idempotency_key=True,
    ),
    "batch": Method(
        "Publish many",
        "Up to 100 commands, publish and broadcast, in order and as one step; each has its reply.",
        fields.BATCH,
        "Replies",
        ("invalid_idempotency_key", "rate_limited", "queue_full"),
    ),
    "events": Method(
        "Publish CloudEvents",
        "CloudEvents 1.0 in structured mode, in binary mode (attributes in headers `ce-…`), or up "
        "to 100 in a batch.",
        None,
        "PublishedEvents",
        (*_PUBLISHES, "invalid_attribute"),
    ),
    "disconnect": Method(
        "Disconnect a user",
        "Close connections of a user, at whatever node.",
        fields.DISCONNECT,
        "Nothing",
        group="Users",
    ),
    "subscribe": Method(
        "Subscribe a user",
        "Let a user's connections listen to a channel, whether they asked or not.",
        fields.SUBSCRIBE,
        "Nothing",
        ("invalid_channel",),
        group="Users",
    ),
    "unsubscribe": Method(
        "Unsubscribe a user",
        "End a user's subscriptions to a channel.",
        fields.UNSUBSCRIBE,
        "Nothing",
        ("invalid_channel",),
        group="Users",
    ),
    "refresh": Method(
        "Refresh a user",
        "Say anew until when a user is welcome.",
        fields.REFRESH,
        "Nothing",
        group="Users",
    ),
    "presence": Method(
        "Who is there",
        "Who is on a channel, at all nodes, by connection.",
        fields.PRESENCE,
        "Members",
        ("invalid_channel", "too_many_members"),
        group="Looking",
    ),
    "presence_stats": Method(
        "How many are there",
        "How many are on a channel: connections, and different users.",
        fields.PRESENCE,
        "Numbers",
        ("invalid_channel",),
        group="Looking",
    ),
    "channels": Method(
        "What is listened to",
        "Channels that somebody listens to, and how many connections do.",
        fields.CHANNELS,
        "Channels",
        ("too_many_channels",),
        group="Looking",
    ),
    "info": Method(
        "How the nodes are",
        "How the nodes are, and how the queue for fallbacks stands: for an alarm.",
        fields.INFO,
        "Info",
        group="Looking",
    ),
}


def document(shape: Shape, root: str = "") -> dict[str, Any]:
    """Return the description.

    Args:
        shape: The limits of this site.
        root: What stands before ``/api/`` in the addresses of this site.
    """
    errors = _Errors()
    operations = {name: _operation(name, errors) for name in METHODS}
    return {
        "openapi": "3.1.0",
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "info": {
            "title": "Live notifications: the HTTP API",
            "version": __version__,
            "summary": "Publish what every open browser shows a few milliseconds later.",
            "description": "Delivery is live: at most once, nothing is stored and nothing "
            "replayed, and whoever missed something is told exactly what.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": root or "/"}],
        "security": [{"apiKey": []}],
        "tags": [{"name": name} for name in ("Publishing", "Users", "Looking", "Probes")],
        "paths": {
            **{f"/api/{name}": {"post": operation} for name, operation in operations.items()},
            **_PROBES,
        },
        "components": {
            "securitySchemes": {
                "apiKey": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "X-API-Key",
                    "description": "The secret of a key. Never in the URL: URLs are logged.",
                }
            },
            "schemas": {**_requests(shape), **_answers(shape)},
            "responses": errors.responses,
        },
    }


def _operation(name: str, errors: _Errors) -> dict[str, Any]:
    method = METHODS[name]
    operation: dict[str, Any] = {
        "operationId": name,
        "summary": method.summary,
        "description": method.about,
        "tags": [method.group],
        "requestBody": {"required": True, "content": _content(name)},
        "responses": {
            "200": {"description": "Done.", "content": {JSON: {"schema": ref(method.result)}}},
            **errors.of((*_ANY, *method.reasons)),
        },
    }
    if method.takes_idempotency_key:
        operation["parameters"] = [_IDEMPOTENCY_KEY]
    if method.fields is None:
        operation["parameters"] = [_header(name) for name in sorted(cloudevents.ATTRIBUTES)]
        operation["requestBody"]["required"] = False  # in binary mode data is optional
    return operation


def _content(name: str) -> dict[str, Any]:
    if METHODS[name].fields is not None:
        return {JSON: {"schema": ref(_request(name))}}
    return {
        cloudevents.STRUCTURED: {"schema": ref("CloudEvent")},
        cloudevents.BATCH: {"schema": ref("CloudEvents")},
    }


def _request(name: str) -> str:
    return f"{name.title().replace('_', '')}Request"


def _requests(shape: Shape) -> dict[str, Schema]:
    named = {
        _request(name): method.fields.schema(shape)
        for name, method in METHODS.items()
        if method.fields is not None
    }
    note = "Events; what is wrong with one is told in its own item of the answer."
    batch = {"type": "array", "maxItems": fields.MANY_ITEMS, "items": True, "description": note}
    batch["examples"] = [[_EVENT]]
    return {**named, "CloudEvent": _cloudevent(shape), "CloudEvents": batch}


_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "The same as the field `idempotency_key`.",
    "schema": text(KEY_LIMIT, KEY.pattern),
}


def _header(attribute: str) -> dict[str, Any]:
    about = f"The attribute `{attribute}`, in binary mode; percent-encoded."
    return {
        "name": f"ce-{attribute}",
        "in": "header",
        "description": about,
        "schema": {"type": "string"},
    }


class _Errors:
    """The answers that tell an error, each kind written down once."""

    def __init__(self) -> None:
        self.responses: dict[str, Any] = {}
        self._names: dict[tuple[int, tuple[str, ...]], str] = {}

    def of(self, reasons: Iterable[str]) -> dict[str, Any]:
        """Return references by status."""
        by_status: dict[int, list[str]] = {_HEAD_TOO_LARGE: ["bad_request"]}
        for reason in sorted(set(reasons)):
            by_status.setdefault(STATUSES[reason][0], []).append(reason)
        return {str(status): self._one(status, by_status[status]) for status in sorted(by_status)}

    def _one(self, status: int, reasons: list[str]) -> dict[str, str]:
        kind = (status, tuple(reasons))
        if kind not in self._names:
            alike = sum(1 for other, _ in self._names if other == status)
            self._names[kind] = f"Error{status}" + (f"-{alike + 1}" if alike else "")
            self.responses[self._names[kind]] = _error(status, reasons)
        return {"$ref": f"#/components/responses/{self._names[kind]}"}


def _error(status: int, reasons: list[str]) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "description": ", ".join(reasons),
        "content": {
            JSON: {
                "schema": {
                    "allOf": [
                        ref("Failed"),
                        {"properties": {"error": {"properties": {"reason": {"enum": reasons}}}}},
                    ]
                }
            }
        },
    }
    if status in (429, 503, 504):
        answer["headers"] = _IN_SECONDS
    return answer


def _probe(about: str, statuses: dict[str, str]) -> dict[str, Any]:
    schema = {"type": "object", "required": ["status"]}
    answers = {
        status: {"description": text, "content": {JSON: {"schema": schema}}}
        for status, text in statuses.items()
    }
    return {"get": {"summary": about, "tags": ["Probes"], "security": [], "responses": answers}}


_PROBES = {
    "/livez": _probe("Whether the process lives", {"200": "It does."}),
    "/readyz": _probe(
        "Whether it should get traffic",
        {"200": "It hears Redis.", "503": "It does not, or it leaves; the reason stands there."},
    ),
}


# --------------------------------------------------------------------------------------- answers


def _result(schema: Schema) -> Schema:
    return record({"result": schema})


_EVENT = {
    **{"specversion": "1.0", "id": "42-1", "source": "/shop", "type": "order.shipped"},
    **{"channel": "public:news", "data": {"order": 42}},
}


def _answers(shape: Shape) -> dict[str, Schema]:
    items = {"type": "array", "items": {"anyOf": [_result(ref("Receipt")), ref("Refused")]}}
    many = record({"responses": items})
    name: Schema = {"type": "string"}
    return {
        "Receipt": record(
            {
                "offset": {"type": "integer", "minimum": 1, "description": "Its number there."},
                "epoch": {"type": "string", "description": "Of which count."},
                "nodes": {**_COUNT, "description": "How many nodes were subscribed."},
                "queued": {"type": "boolean", "description": "Whether a fallback has it."},
            },
            {"repeated": {"const": True, "description": "An earlier publish's answer."}},
        ),
        "Published": _result(ref("Receipt")),
        "PublishedMany": _result(many),
        "PublishedEvents": {
            "anyOf": [ref("Published"), ref("PublishedMany")],
            "description": "Of one event, or of a batch.",
        },
        "Replies": record({"replies": {"type": "array", "items": _reply(many)}}),
        "Nothing": _result(record({})),
        "Member": record({"user": name, "client": name}, {"conn_info": {}, "chan_info": {}}),
        "Members": _result(
            record({"presence": {"type": "object", "additionalProperties": ref("Member")}})
        ),
        "Numbers": _result(record({"num_clients": _COUNT, "num_users": _COUNT})),
        "Channels": _result(
            record(
                {
                    "channels": {
                        "type": "object",
                        "propertyNames": channel_name(shape),
                        "additionalProperties": record({"num_clients": _COUNT}),
                    },
                    "silent_nodes": _COUNT,
                }
            )
        ),
        "Info": _result(
            record(
                {
                    "nodes": {"type": "array", "items": ref("Node")},
                    "silent_nodes": _COUNT,
                    "fallback": record(
                        {field: {"type": "number", "minimum": 0} for field in Stats._fields}
                    ),
                }
            )
        ),
        "Node": record(
            {
                **{"uid": name, "name": name, "version": name},
                **{f"num_{what}": _COUNT for what in ("clients", "users", "subs", "channels")},
                "uptime": {**_COUNT, "description": "Seconds."},
            }
        ),
        "Refused": record({"error": ref("Error")}),
        "Failed": record({"error": ref("Error"), "request_id": name}),
        "Error": record(
            {
                "code": {"type": "integer", "description": "Centrifugo's, or ours from 1000."},
                "reason": {"enum": list(STATUSES), "description": "For programs."},
                "message": {"type": "string", "description": "For people."},
            },
            {"attribute": {"type": "string", "description": "Of a CloudEvent: which."}},
        ),
    }


def _reply(many: Schema) -> Schema:
    published = [record({"publish": ref("Receipt")}), record({"broadcast": many})]
    return {"anyOf": [*published, ref("Refused")]}


def _cloudevent(shape: Shape) -> Schema:
    """Return the schema of an event; what it cannot say, `realtime.cloudevents` refuses."""
    some = text(TAG_VALUE_LIMIT)
    known: dict[str, Schema] = dict.fromkeys(cloudevents.ATTRIBUTES, some)
    known |= {
        "specversion": {"const": cloudevents.VERSION},
        "type": text(EVENT_LIMIT, EVENT.pattern),
        "channel": channel_name(shape),
        "fallback": text(EVENT_LIMIT, EVENT.pattern),
        "time": some | {"format": "date-time"},
        "source": some | {"format": "uri-reference"},
        "dataschema": some | {"format": "uri"},
    }
    known |= {"data": {}, "data_base64": {"type": "string", "contentEncoding": "base64"}}
    return {
        "type": "object",
        "properties": known,
        "required": list(cloudevents.REQUIRED),
        "propertyNames": {
            "anyOf": [text(cloudevents.NAME_LIMIT, "[a-z0-9]+"), {"const": "data_base64"}]
        },
        "additionalProperties": {"type": ["string", "integer", "boolean", "null"]},
        "examples": [_EVENT],
    }
