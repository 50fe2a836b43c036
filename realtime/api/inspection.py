"""The methods of the HTTP API that change nothing: nodes, channels, connections and members.

A key that may use only some channels learns nothing about others.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import msgspec

from realtime.api.answers import Response, queue_body, success
from realtime.api.control import read_client_id, read_user
from realtime.api.fields import CHANNELS, CONNECTIONS, INFO
from realtime.api.items import read_channel_with_members, read_channels
from realtime.api.request import refuse_unknown
from realtime.core.connection_survey import (
    PAGE_DEFAULT,
    PAGE_LIMIT,
    ConnectionAtNode,
    ConnectionQuery,
    encode_query,
    page_of,
)
from realtime.core.survey import Question, channels_of, checked_pattern, nodes_of
from realtime.errors import Forbidden, InvalidData

if TYPE_CHECKING:
    from realtime.api.backend import Backend
    from realtime.api.items import Rules
    from realtime.api.keys import Key


async def _info(fields: dict[str, Any], rules: Rules, backend: Backend) -> Response:
    refuse_unknown(fields, INFO.names)
    stats = await backend.queue_stats()
    survey = await backend.survey(Question(secrets.token_hex(8), "info"))
    nodes = {"nodes": nodes_of(survey.answers), "silent_nodes": survey.silent}
    return success({"result": {**nodes, "fallback": queue_body(stats)}})


async def _channels(fields: dict[str, Any], rules: Rules, backend: Backend) -> Response:
    refuse_unknown(fields, CHANNELS.names)
    pattern = checked_pattern(fields.get("pattern"))
    survey = await backend.survey(Question(secrets.token_hex(8), "channels", pattern))
    counts = channels_of(survey.answers, rules.key.may_name)
    channels = {name: {"num_clients": count} for name, count in counts.items()}
    return success({"result": {"channels": channels, "silent_nodes": survey.silent}})


async def _connections(fields: dict[str, Any], rules: Rules, backend: Backend) -> Response:
    query = read_query(fields, rules)
    question = Question(secrets.token_hex(8), "connections", encode_query(query))
    survey = await backend.survey(question)
    page = page_of(survey.answers, query.limit)
    body = {
        "connections": [_connection_body(each, rules.key) for each in page.connections],
        "has_more": page.has_more,
        "silent_nodes": survey.silent,
    }
    return success({"result": body})


def read_query(fields: dict[str, Any], rules: Rules) -> ConnectionQuery:
    """Read the fields of a `connections`.

    Raises:
        InvalidData: A field is unknown or invalid.
        InvalidName: The channel's name is invalid.
        Forbidden: The key may not use the channel, or may use only some and names none.
    """
    refuse_unknown(fields, CONNECTIONS.names)
    channel = fields.get("channel")
    if channel is not None:
        channel = rules.check_channel(channel)
    elif rules.key.channels is not None:
        raise Forbidden
    limit, names = fields.get("limit"), fields.get("channels")
    if limit is None:
        limit = PAGE_DEFAULT
    if not isinstance(limit, int) or isinstance(limit, bool) or not 1 <= limit <= PAGE_LIMIT:
        raise InvalidData(f"must be a number from 1 to {PAGE_LIMIT}", field="limit")
    if names is not None and not isinstance(names, bool):
        raise InvalidData("must be true or false", field="channels")
    return ConnectionQuery(
        user="" if fields.get("user") is None else read_user(fields),
        channel=channel or "",
        after=read_client_id(fields, "after"),
        limit=limit,
        names=bool(names),
    )


def _connection_body(found: ConnectionAtNode, key: Key) -> dict[str, Any]:
    """Return a connection as a body.

    Without the address of the client: it is personal data that the API has never shown, and the
    access log of the proxy has it. A key for some channels does not learn how many others a
    connection has.
    """
    uid, node_name, each = found
    body = {
        **{"client": each.client, "user": each.user, "node": uid, "node_name": node_name},
        **{"transport": each.transport, "connected_at": each.connected_at},
        **{"outbox_bytes": each.outbox_bytes, "congested": each.is_congested},
    }
    if key.channels is None:
        body["num_channels"] = each.num_channels
    if each.channels is not None:
        body["channels"] = list(filter(key.may_name, each.channels))
    return body


async def _position(fields: dict[str, Any], rules: Rules, backend: Backend) -> Response:
    positions = await backend.positions(read_channels(fields, rules))
    return success({"result": {"positions": {c: at._asdict() for c, at in positions.items()}}})


async def _presence(fields: dict[str, Any], rules: Rules, backend: Backend) -> Response:
    infos = await backend.members(read_channel_with_members(fields, rules))
    members = {client: msgspec.Raw(info.encode()) for client, info in infos.items()}
    return success({"result": {"presence": members}})


async def _presence_stats(fields: dict[str, Any], rules: Rules, backend: Backend) -> Response:
    headcount = await backend.headcount(read_channel_with_members(fields, rules))
    return success({"result": {"num_clients": headcount.clients, "num_users": headcount.users}})


INSPECTIONS: dict[str, Callable[[dict[str, Any], Rules, Backend], Awaitable[Response]]] = {
    "info": _info,
    "channels": _channels,
    "connections": _connections,
    "position": _position,
    "presence": _presence,
    "presence_stats": _presence_stats,
}
"""By name, as in the path of a request."""
