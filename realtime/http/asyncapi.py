"""Describes the wire protocol and the event streams in AsyncAPI 3.0.

Messages of clients are generated from the types that parse them (`realtime.protocols.centrifugo`).
Messages of nodes are declared here; tests/e2e/test_description.py compares them with those of a
running service.
"""

from __future__ import annotations

from typing import Any

import msgspec

from realtime._version import __version__
from realtime.api.fields import Schema, Shape, channel_name, record, ref
from realtime.core.positions import GapReason
from realtime.protocols.centrifugo_commands import CommandLine
from realtime.transports.sse_format import OWN_PREFIX

ANY: Schema = {}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_TEXT: Schema = {"type": "string"}
_ID: Schema = {"type": "integer", "minimum": 1, "exclusiveMaximum": 2**32}
_YES: Schema = {"const": True}


def document(shape: Shape, root: str = "") -> dict[str, Any]:
    """Return the description.

    Args:
        shape: The limits of this site.
        root: The part of this site's URLs before ``/connection/``.
    """
    commands, types = _commands(shape)
    said = {**_replies(shape), **_pushes(shape)}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Live notifications: WebSocket and event streams",
            "version": __version__,
            "description": "Centrifugo's JSON protocol with three additional pushes: `gap`, "
            "`state`, and `presence`. Frames are text: one or more of these objects, one per "
            "line. `{}` from the node is a ping, and `{}` from the client is the pong.",
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "channels": {
            "websocket": {
                "address": f"{root}/connection/websocket",
                "title": "WebSocket",
                "messages": {name: _message(name) for name in [*commands, *said, "ping", "pong"]},
            },
            "eventStream": {
                "address": f"{root}/connection/sse",
                "title": "Event stream (WHATWG HTML §9.2), for EventSource in browsers",
                "messages": {name: _message(name) for name in _EVENTS},
            },
            "unidirectional": {
                "address": f"{root}/connection/uni_sse",
                "title": "Event stream of pushes, compatible with Centrifugo",
                "messages": {"push": _message("push")},
            },
            "httpStream": {
                "address": f"{root}/connection/http_stream",
                "title": "HTTP streaming, for networks that break WebSockets",
                "messages": {name: _message(name) for name in ["connectCommand", *said, "ping"]},
            },
            "emulation": {
                "address": f"{root}/emulation",
                "title": "Commands of an HTTP streaming client after connect",
                "messages": {"emulated": _message("emulated")},
            },
        },
        "operations": {
            "say": _operation(
                "receive", "websocket", [*commands, "pong"], "Messages from the client."
            ),
            "hear": _operation("send", "websocket", [*said, "ping"], "Messages from the node."),
            "listen": _operation("send", "eventStream", list(_EVENTS), "Events of the channels."),
            "listenRaw": _operation("send", "unidirectional", ["push"], "Pushes."),
            "begin": _operation("receive", "httpStream", ["connectCommand"], "Request body."),
            "stream": _operation(
                "send", "httpStream", [*said, "ping"], "Response, one message per line."
            ),
            "emulate": _operation("receive", "emulation", ["emulated"], "Request body."),
        },
        "components": {
            "messages": {
                **{name: _make_message(name, schema) for name, schema in commands.items()},
                **{name: _make_message(name, schema) for name, schema in said.items()},
                **{name: {"name": name, "payload": record({})} for name in ("ping", "pong")},
                **{name: _event(name, about) for name, about in _EVENTS.items()},
                "push": {"name": "push", "payload": {"type": "object"}},
                "emulated": _make_message("emulated", _EMULATED),
            },
            "schemas": {**types, **_schemas(shape)},
        },
    }


def _message(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/messages/{name}"}


def _operation(action: str, channel: str, names: list[str], about: str) -> dict[str, Any]:
    where = f"#/channels/{channel}"
    return {
        "action": action,
        "channel": {"$ref": where},
        "summary": about,
        "messages": [{"$ref": f"{where}/messages/{name}"} for name in names],
    }


def _make_message(name: str, schema: Schema) -> dict[str, Any]:
    return {"name": name, "payload": schema}


# ------------------------------------------------------------------------- messages of clients


def _commands(shape: Shape) -> tuple[dict[str, Schema], dict[str, Schema]]:
    """Return a schema for each command, and the schemas to which these refer."""
    line = "#/components/schemas/{name}"
    [_], types = msgspec.json.schema_components(
        [CommandLine], schema_hook=lambda _: {}, ref_template=line
    )
    types = {name.removeprefix("_"): _strip_underscores(schema) for name, schema in types.items()}
    commands = {}
    for method, either in types.pop("CommandLine")["properties"].items():
        if method != "id":
            [arguments] = [s for s in either["anyOf"] if s.get("type") != "null"]
            is_answered = method != "send"
            own: Schema = {"id": _ID} if is_answered else {}
            command = record({**own, method: arguments})
            del command["additionalProperties"]  # SDKs also send fields of newer servers
            commands[f"{method}Command"] = command
    for schema in types.values():
        if "channel" in schema["properties"]:
            schema["properties"]["channel"] = channel_name(shape)
    return commands, types


def _strip_underscores(schema: Any) -> Any:
    """Return a schema without the leading underscores of our private class names."""
    if isinstance(schema, dict):
        return {
            name: value.replace("/_", "/") if name == "$ref" else _strip_underscores(value)
            for name, value in schema.items()
            if name != "title"
        }
    return [_strip_underscores(item) for item in schema] if isinstance(schema, list) else schema


# --------------------------------------------------------------------------- messages of nodes


_EXPIRES: Schema = {"expires": _YES, "ttl": _COUNT}
_NUMBERS: Schema = {"num_clients": _COUNT, "num_users": _COUNT}
_BEGUN: Schema = {
    "positioned": _YES,
    "recoverable": {"const": False},
    **{"epoch": _TEXT, "offset": _COUNT},
}
_ENDED: Schema = {"code": _COUNT, "reason": _TEXT}


_EMULATED: Schema = {
    **record({"session": _TEXT, "node": _TEXT, "data": _TEXT}),
    "description": "The session and node from the connect reply; data is a frame of commands.",
}


def _schemas(shape: Shape) -> dict[str, Schema]:
    return {
        "Channel": channel_name(shape),
        "Info": record({"user": _TEXT, "client": _TEXT}, {"conn_info": ANY, "chan_info": ANY}),
        "Publication": record(
            {"offset": {"type": "integer", "minimum": 1}, "data": ANY},
            {
                "epoch": {
                    **_TEXT,
                    "description": "Present in the first publication of a new epoch.",
                },
                "tags": {"type": "object", "additionalProperties": _TEXT},
                "info": ref("Info"),
            },
        ),
        "Gap": record(
            {
                "epoch": _TEXT,
                "from": {"type": "integer", "minimum": 1},
                "to": {"type": ["integer", "null"], "description": "Null if it cannot be known."},
                "reason": {"enum": [str(reason) for reason in GapReason]},
            }
        ),
    }


def _replies(shape: Shape) -> dict[str, Schema]:
    position = record(
        {}, {**_BEGUN, **_EXPIRES, "was_recovering": _YES, "recovered": {"type": "boolean"}}
    )
    about = {"client": _TEXT, "version": _TEXT}
    results: dict[str, Schema] = {
        "connect": record(
            {**about, "ping": _COUNT, "pong": _YES},
            {**_EXPIRES, "session": _TEXT, "node": _TEXT},
        ),
        "subscribe": position,
        "unsubscribe": record({}),
        "publish": record({}),
        "refresh": record(about, _EXPIRES),
        "sub_refresh": record({}, _EXPIRES),
        "ping": record({}),
        "history": record({"offset": _COUNT, "epoch": _TEXT}),
        "presence": record({"presence": {"type": "object", "additionalProperties": ref("Info")}}),
        "presence_stats": record(_NUMBERS),
        "rpc": record({"data": ANY}),
    }
    replies = {f"{name}Reply": record({"id": _ID, name: what}) for name, what in results.items()}
    error = record({"code": _COUNT, "message": _TEXT}, {"temporary": _YES})
    return {**replies, "errorReply": record({"error": error}, {"id": _ID})}


def _pushes(shape: Shape) -> dict[str, Schema]:
    someone = record({"info": ref("Info")})
    untold: Schema = {"type": ["integer", "null"], "minimum": 0}
    on_a_channel: dict[str, Schema] = {
        "pub": ref("Publication"),
        "join": someone,
        "leave": someone,
        "presence": record({**_NUMBERS, "untold": untold}),
        "subscribe": record(_BEGUN),
        "unsubscribe": record(_ENDED),
        "gap": ref("Gap"),
    }
    state = record({"live": {"type": "boolean"}}, {"reason": _TEXT})
    elsewhere: dict[str, Schema] = {
        "message": record({"data": ANY}),
        "disconnect": record(_ENDED),
        "refresh": record({}, _EXPIRES),
    }
    pushes = {
        f"{name}Push": record({"push": record({"channel": ref("Channel"), name: what})})
        for name, what in on_a_channel.items()
    }
    pushes |= {
        f"{name}Push": record({"push": record({name: what})}) for name, what in elsewhere.items()
    }
    # Of one channel, or of all.
    return pushes | {
        "statePush": record({"push": record({"state": state}, {"channel": ref("Channel")})})
    }


_EVENTS = {
    "message": "A publication without an event name. Other publications have their own event name.",
    **{
        OWN_PREFIX + name: about
        for name, about in {
            "gap": "Publications that were missed and are never sent.",
            "state": "Whether the node, or one channel, is connected to Redis.",
            "join": "A client joined.",
            "leave": "A client left.",
            "presence": "Number of clients, sent when there are too many joins and leaves.",
            "subscribed": "The node started a subscription.",
            "unsubscribed": "The node ended a subscription.",
            "disconnect": "The stream ends; the client must not reconnect.",
        }.items()
    },
}
"""Events of a stream, by name."""


def _event(name: str, about: str) -> dict[str, Any]:
    payload: Schema = ANY if name == "message" else {"type": "object"}
    return {"name": name, "summary": about, "contentType": "text/event-stream", "payload": payload}
