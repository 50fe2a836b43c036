"""The HTTP API as one rule: bytes and credentials in, status and bytes out.

It touches neither sockets nor Redis: what is to be done is asked of a `Backend`, so that a sync and
an async rim can use the same rule. Methods and fields are Centrifugo's
(centrifugal.dev/docs/server/server_api), statuses are real ones: docs/http-api.md.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from realtime import control
from realtime.api.answers import (
    Response,
    error_body,
    failure,
    item_body,
    queue_body,
    result,
    success,
)
from realtime.api.backend import Backend, Outcome
from realtime.api.control import READERS
from realtime.api.events import event_item, event_publication, events_of
from realtime.api.fields import CHANNELS, INFO
from realtime.api.head import (
    EVENTS,
    MethodNotAllowed,
    MethodNotFound,
    Request,
    TokenInUrl,
    check_body,
    fields_of,
)
from realtime.api.items import (
    Command,
    Item,
    Rules,
    batch_commands,
    broadcast_items,
    counted_channel,
    publication,
)
from realtime.cloudevents import NO_ROUTES, Routes
from realtime.errors import (
    BrokerError,
    BrokerUnavailable,
    Forbidden,
    LimitExceeded,
    OutcomeUnknown,
    RealtimeError,
    RequestError,
)
from realtime.keys import Key
from realtime.namespaces import Namespaces
from realtime.publication import Publication
from realtime.query import has_secret
from realtime.survey import Question, channels_of, checked_pattern, nodes_of
from realtime.tally import Tally

logger = logging.getLogger(__name__)


Method = Callable[[Any, Rules, Backend], Awaitable[Response]]
Access = Callable[[str], Key]
"""From what X-API-Key says to what its sender may do; raises `Unauthorized`."""


class Admitted(NamedTuple):
    """A request whose body is worth reading."""

    request: Request
    method: Method
    key: Key


_uses, _refusals = Tally(), Tally()
_noting = threading.Lock()  # Django's sync view runs in threads


def admitted(request: Request, access: Access) -> Admitted:
    """Look at the head of a request, before its body is read.

    Otherwise a client without a key could make us hold a megabyte for each connection.

    Raises:
        RequestError: It is refused, whatever the body is.
    """
    method = method_of(request)
    key = access(request.api_key)
    _note_use(key)
    if not key.may_use(request.api_method):
        raise Forbidden
    check_body(request)
    return Admitted(request, method, key)


def method_of(request: Request) -> Method:
    """Return the method that a request asks for, whoever sends it.

    Raises:
        TokenInUrl: A secret stands in its address.
        MethodNotFound: There is no such method.
        MethodNotAllowed: It is no POST.
    """
    if has_secret(request.query):
        raise TokenInUrl("a secret in the URL is logged on its way: make another, send a header")
    method = METHODS.get(request.api_method)
    if method is None:
        raise MethodNotFound(f"the methods are {', '.join(METHODS)}")
    if request.http_method != "POST":
        raise MethodNotAllowed("send a POST")
    return method


async def respond(
    admitted: Admitted,
    body: bytes,
    backend: Backend,
    namespaces: Namespaces,
    routes: Routes = NO_ROUTES,
) -> Response:
    """Do a request. Every `RealtimeError` becomes a response, whichever call raised it."""
    request, method, key = admitted
    try:
        check_body(request, body)
        read = events_of if request.api_method == EVENTS else fields_of
        return await method(read(request, body), Rules(key, namespaces, routes), backend)
    except RealtimeError as error:
        if isinstance(error, LimitExceeded) and key.rate is not None:
            _note_limit(key)
        return failure(error)


def _note_use(key: Key) -> None:
    with _noting:
        count = _uses.add(key.name, time.monotonic())
    if count:
        logger.info("key %s: requests so far: %d", key.name, count)


def _note_limit(key: Key) -> None:
    with _noting:
        count = _refusals.add(key.name, time.monotonic())
    if count:
        logger.warning(
            "key %s is over its rate of %g a second: %d requests refused so far",
            *(key.name, key.rate, count),
        )


async def _publish(fields: dict[str, Any], rules: Rules, backend: Backend) -> Response:
    return await _one(publication(fields, rules), rules.key, backend)


async def _broadcast(fields: dict[str, Any], rules: Rules, backend: Backend) -> Response:
    return await _several(broadcast_items(fields, rules), rules.key, backend)


async def _events(events: Any, rules: Rules, backend: Backend) -> Response:
    """Publish a CloudEvent, or a batch of them; each of a batch has its own answer."""
    if isinstance(events, list):
        items = [event_item(event, rules) for event in events]
        return await _several(items, rules.key, backend)
    return await _one(event_publication(events, rules), rules.key, backend)


async def _one(item: Publication, key: Key, backend: Backend) -> Response:
    [outcome] = await _published([item], key, backend)
    if isinstance(outcome, RealtimeError):
        raise outcome
    return success({"result": result(outcome)})


async def _several(items: Sequence[Item], key: Key, backend: Backend) -> Response:
    outcomes = await _published(items, key, backend)
    return success({"result": {"responses": [item_body(outcome) for outcome in outcomes]}})


async def _batch(fields: dict[str, Any], rules: Rules, backend: Backend) -> Response:
    """Do many commands in one round trip to Redis; each has its own reply."""
    commands = batch_commands(fields, rules)
    items = [item for command in commands if isinstance(command, Command) for item in command.items]
    outcomes = iter(await _published(items, rules.key, backend))
    replies = []
    for command in commands:
        if isinstance(command, Command):
            replies.append(_reply(command, [next(outcomes) for _ in command.items]))
        else:
            replies.append(error_body(command))
    return success({"replies": replies})


async def _info(fields: dict[str, Any], rules: Rules, backend: Backend) -> Response:
    INFO.refuse_unknown(fields)
    stats = await backend.queue_stats()
    survey = await backend.survey(Question(secrets.token_hex(8), "info"))
    nodes = {"nodes": nodes_of(survey.answers), "silent_nodes": survey.silent}
    return success({"result": {**nodes, "fallback": queue_body(stats)}})


async def _channels(fields: dict[str, Any], rules: Rules, backend: Backend) -> Response:
    CHANNELS.refuse_unknown(fields)
    pattern = checked_pattern(fields.get("pattern"))
    survey = await backend.survey(Question(secrets.token_hex(8), "channels", pattern))
    counts = channels_of(survey.answers, rules.key.may_name)
    channels = {name: {"num_clients": count} for name, count in counts.items()}
    return success({"result": {"channels": channels, "silent_nodes": survey.silent}})


async def _presence(fields: dict[str, Any], rules: Rules, backend: Backend) -> Response:
    infos = await backend.members(counted_channel(fields, rules))
    members = {client: msgspec.Raw(info.encode()) for client, info in infos.items()}
    return success({"result": {"presence": members}})


async def _presence_stats(fields: dict[str, Any], rules: Rules, backend: Backend) -> Response:
    headcount = await backend.headcount(counted_channel(fields, rules))
    return success({"result": {"num_clients": headcount.clients, "num_users": headcount.users}})


def _told(read: Callable[[dict[str, Any], Rules], control.Command]) -> Method:
    """Return the method that tells all nodes what is read of its fields."""

    async def method(fields: dict[str, Any], rules: Rules, backend: Backend) -> Response:
        await backend.tell(read(fields, rules))
        return success({"result": {}})

    return method


METHODS: dict[str, Method] = {
    "publish": _publish,
    "broadcast": _broadcast,
    "batch": _batch,
    EVENTS: _events,
    "info": _info,
    "channels": _channels,
    "presence": _presence,
    "presence_stats": _presence_stats,
    **{name: _told(read) for name, read in READERS.items()},
}
"""By name, as in the path of a request."""


def _reply(command: Command, outcomes: list[Outcome]) -> dict[str, Any]:
    if command.method == "broadcast":
        return {"broadcast": {"responses": [item_body(outcome) for outcome in outcomes]}}
    [outcome] = outcomes
    if isinstance(outcome, RealtimeError):
        return error_body(outcome)
    return {"publish": result(outcome)}


async def _published(items: Sequence[Item], key: Key, backend: Backend) -> list[Outcome]:
    """Publish those items that can be, and return what became of each of all."""
    publications = [item for item in items if isinstance(item, Publication)]
    if not publications:
        return [item for item in items if isinstance(item, RealtimeError)]
    if key.rate is not None:
        await _within_rate(key.name, key.rate, len(publications), backend)
    try:
        outcomes = iter(_each(await backend.publish(publications)))
    except RequestError as error:
        if len(publications) > 1:
            raise
        outcomes = iter([error])  # of that one publication, be it a batch's or a broadcast's
    return [next(outcomes) if isinstance(item, Publication) else item for item in items]


async def _within_rate(name: str, rate: float, count: int, backend: Backend) -> None:
    """Go on only within the rate.

    Raises:
        LimitExceeded: It is used up.
        BrokerUnavailable: Nobody knows; nothing was published.
    """
    try:
        wait = await backend.take(name, rate, count)
    except OutcomeUnknown as error:
        raise BrokerUnavailable(str(error)) from error  # unknown is only what was taken
    if wait > 0:
        raise LimitExceeded("publications a second with this key", rate, wait)


def _each(outcomes: list[Outcome]) -> list[Outcome]:
    if isinstance(outcomes[0], BrokerError) and all(isinstance(o, BrokerError) for o in outcomes):
        raise outcomes[0]  # the broker refused each of them: a 200 would hide it
    return outcomes
