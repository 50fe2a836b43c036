"""The schemas of the HTTP API in OpenAPI: requests, CloudEvents and responses."""

from __future__ import annotations

from realtime.api import cloudevent_attributes, fields
from realtime.api.answers import STATUSES
from realtime.api.fields import Schema, Shape, channel_name, record, ref, text
from realtime.brokers import Stats
from realtime.core.names import EVENT, EVENT_LIMIT
from realtime.core.publication import TAG_VALUE_LIMIT
from realtime.http.openapi_methods import DESCRIBED_METHODS

_COUNT: Schema = {"type": "integer", "minimum": 0}
_EVENT = {
    **{"specversion": "1.0", "id": "42-1", "source": "/shop", "type": "order.shipped"},
    **{"channel": "public:news", "data": {"order": 42}},
}


def request_name(method: str) -> str:
    """Return the name of the schema of a method's request."""
    return f"{method.title().replace('_', '')}Request"


def request_schemas(shape: Shape) -> dict[str, Schema]:
    """Return the schemas of all requests by name."""
    named = {
        request_name(name): method.fields.schema(shape)
        for name, method in DESCRIBED_METHODS.items()
        if method.fields is not None
    }
    note = "Events. An error in one of them is reported in its item of the response."
    batch = {"type": "array", "maxItems": fields.MANY_ITEMS, "items": True, "description": note}
    batch["examples"] = [[_EVENT]]
    return {**named, "CloudEvent": _cloudevent(shape), "CloudEvents": batch}


def response_schemas(shape: Shape) -> dict[str, Schema]:
    """Return the schemas of all responses by name."""
    items = {"type": "array", "items": {"anyOf": [_result(ref("Receipt")), ref("Refused")]}}
    many = record({"responses": items})
    name: Schema = {"type": "string"}
    return {
        "Receipt": record(
            {
                "offset": {"type": "integer", "minimum": 1, "description": "Its position."},
                "epoch": {"type": "string", "description": "Epoch that the offset belongs to."},
                "nodes": {**_COUNT, "description": "Number of subscribed nodes."},
                "queued": {"type": "boolean", "description": "Queued for a fallback."},
            },
            {"repeated": {"const": True, "description": "Receipt of an earlier request."}},
        ),
        "Published": _result(ref("Receipt")),
        "PublishedMany": _result(many),
        "PublishedEvents": {
            "anyOf": [ref("Published"), ref("PublishedMany")],
            "description": "Result of one event or of a batch.",
        },
        "Replies": record({"replies": {"type": "array", "items": _reply(many)}}),
        "Nothing": _result(record({})),
        "Positions": _result(
            record(
                {
                    "positions": {
                        "type": "object",
                        "propertyNames": channel_name(shape),
                        "additionalProperties": record({"epoch": name, "offset": _COUNT}),
                    }
                }
            )
        ),
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
        "Connections": _result(
            record(
                {
                    "connections": {"type": "array", "items": ref("Connection")},
                    "has_more": {"type": "boolean", "description": "Another page follows."},
                    "silent_nodes": _COUNT,
                }
            )
        ),
        "Connection": record(
            {
                **{"client": name, "user": name, "node": name, "node_name": name},
                "transport": {**name, "examples": ["websocket"]},
                "connected_at": {**_COUNT, "description": "In seconds since 1970."},
                "outbox_bytes": {**_COUNT, "description": "Bytes that wait for a slow client."},
                "congested": {"type": "boolean", "description": "Nothing more is written to it."},
            },
            {
                "num_channels": {**_COUNT, "description": "Not for a key with a list of channels."},
                "channels": {"type": "array", "items": channel_name(shape)},
            },
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
                "uptime": {**_COUNT, "description": "In seconds."},
            }
        ),
        "Refused": record({"error": ref("Error")}),
        "Failed": record({"error": ref("Error"), "request_id": name}),
        "Error": record(
            {
                "code": {"type": "integer", "description": "Centrifugo's; ours from 1000."},
                "reason": {"enum": list(STATUSES), "description": "Machine-readable reason."},
                "message": {"type": "string", "description": "Human-readable message."},
            },
            {"attribute": {"type": "string", "description": "Of a CloudEvent: the invalid one."}},
        ),
    }


def _result(schema: Schema) -> Schema:
    return record({"result": schema})


def _reply(many: Schema) -> Schema:
    published = [record({"publish": ref("Receipt")}), record({"broadcast": many})]
    return {"anyOf": [*published, ref("Refused")]}


def _cloudevent(shape: Shape) -> Schema:
    """Return the schema of an event.

    `realtime.api.cloudevent_attributes` also checks what the schema does not express.
    """
    some = text(TAG_VALUE_LIMIT)
    known: dict[str, Schema] = dict.fromkeys(cloudevent_attributes.ATTRIBUTES, some)
    known |= {
        "specversion": {"const": cloudevent_attributes.VERSION},
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
        "required": list(cloudevent_attributes.REQUIRED),
        "propertyNames": {
            "anyOf": [text(cloudevent_attributes.NAME_LIMIT, "[a-z0-9]+"), {"const": "data_base64"}]
        },
        "additionalProperties": {"type": ["string", "integer", "boolean", "null"]},
        "examples": [_EVENT],
    }
