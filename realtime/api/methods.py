"""The methods of the HTTP API, without sockets or Redis: a request in, a response out.

A rim calls `admit_request` with the head of a request, reads the body, then awaits `respond`.
Methods call a `Backend` of the rim, so that a sync and an async rim share them.

Methods and fields are Centrifugo's (centrifugal.dev/docs/server/server_api), but errors have their
own HTTP statuses: docs/http-api.md.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from realtime.api.answers import (
    Response,
    error_body,
    failure,
    item_body,
    result,
    success,
)
from realtime.api.backend import Backend, Outcome
from realtime.api.cloudevent_routes import NO_ROUTES, Routes
from realtime.api.control import READERS
from realtime.api.events import event_item, event_publication, events_of
from realtime.api.inspection import INSPECTIONS
from realtime.api.items import (
    BatchCommand,
    Item,
    Rules,
    batch_commands,
    broadcast_items,
    publication,
)
from realtime.api.key_debts import KeyDebts
from realtime.api.keys import Key
from realtime.api.request import (
    EVENTS,
    MethodNotAllowed,
    MethodNotFound,
    Request,
    TokenInUrl,
    check_head,
    check_size,
    fields_of,
)
from realtime.core.publication import Publication
from realtime.core.tally import Tally
from realtime.errors import (
    BrokerError,
    BrokerUnavailable,
    Forbidden,
    LimitExceeded,
    OutcomeUnknown,
    RealtimeError,
    RequestError,
)
from realtime.identity.url_secrets import has_secret

if TYPE_CHECKING:
    from realtime.core import node_commands
    from realtime.core.namespaces import Namespaces

logger = logging.getLogger(__name__)

Method = Callable[[Any, Rules, Backend], Awaitable[Response]]
Access = Callable[[str], Key]
"""Finds the key for the value of X-API-Key; raises `Unauthorized`."""


class AdmittedRequest(NamedTuple):
    """A request that passed the checks of its head."""

    request: Request
    method: Method
    key: Key


_PUBLISHING = {"publish", "broadcast", "batch", EVENTS}
_uses, _refusals = Tally(), Tally()
_debts = KeyDebts()
_noting = threading.Lock()  # Django's sync view runs in threads


def admit_request(request: Request, access: Access) -> AdmittedRequest:
    """Check the head of a request, before its body is read.

    Otherwise a client without a key could make us buffer a megabyte for each connection.

    Raises:
        RequestError: It is refused, whatever its body is.
    """
    method = method_of(request)
    key = access(request.api_key)
    _note_use(key)
    if not key.may_use(request.api_method):
        raise Forbidden
    _refuse_debtor(key, request)
    check_head(request)
    return AdmittedRequest(request, method, key)


def admit_again(admitted: AdmittedRequest) -> None:
    """Check what may have changed since a request with this head and this key was admitted.

    Raises:
        LimitExceeded: The key is over its rate.
    """
    _note_use(admitted.key)
    _refuse_debtor(admitted.key, admitted.request)


def _refuse_debtor(key: Key, request: Request) -> None:
    if key.rate is None or request.api_method not in _PUBLISHING:
        return
    if wait := _debts.wait(key, time.monotonic()):
        _note_limit(key)
        raise _make_rate_error(key, wait)


def method_of(request: Request) -> Method:
    """Return the method that a request names.

    Raises:
        TokenInUrl: The URL contains a secret.
        MethodNotFound: The method does not exist.
        MethodNotAllowed: The request is not a POST.
    """
    if request.query and has_secret(request.query):
        raise TokenInUrl("URLs are logged: replace this secret, and send the new one in a header")
    method = METHODS.get(request.api_method)
    if method is None:
        raise MethodNotFound(f"the method does not exist; use one of {', '.join(METHODS)}")
    if request.http_method != "POST":
        raise MethodNotAllowed("use POST")
    return method


async def respond(
    admitted: AdmittedRequest,
    body: bytes,
    backend: Backend,
    namespaces: Namespaces,
    routes: Routes = NO_ROUTES,
) -> Response:
    """Carry out a request. Every `RealtimeError` becomes a response, whichever call raised it."""
    request, method, key = admitted
    try:
        check_size(request, len(body))
        read = events_of if request.api_method == EVENTS else fields_of
        return await method(read(request, body), Rules(key, namespaces, routes), backend)
    except RealtimeError as error:
        if isinstance(error, LimitExceeded) and key.rate is not None:
            _note_limit(key)
        elif isinstance(error, RequestError) and request.api_method in _PUBLISHING:
            _debts.note_failure(key, time.monotonic())
        return failure(error)


def _note_use(key: Key) -> None:
    with _noting:
        count = _uses.add(key.name, time.monotonic())
    if count:
        logger.info("API key %s: %d requests so far", key.name, count)


def _note_limit(key: Key) -> None:
    with _noting:
        count = _refusals.add(key.name, time.monotonic())
    if count:
        logger.warning(
            "API key %s exceeded its rate of %g per second: %d requests refused so far",
            *(key.name, key.rate, count),
        )


def _publish(fields: dict[str, Any], rules: Rules, backend: Backend) -> Awaitable[Response]:
    return _publish_one(publication(fields, rules), rules.key, backend)


def _broadcast(fields: dict[str, Any], rules: Rules, backend: Backend) -> Awaitable[Response]:
    return _publish_several(broadcast_items(fields, rules), rules.key, backend)


def _events(events: Any, rules: Rules, backend: Backend) -> Awaitable[Response]:
    """Publish a CloudEvent, or a batch of them with one result each."""
    if isinstance(events, list):
        items = [event_item(event, rules) for event in events]
        return _publish_several(items, rules.key, backend)
    return _publish_one(event_publication(events, rules), rules.key, backend)


async def _publish_one(item: Publication, key: Key, backend: Backend) -> Response:
    if key.rate is not None:
        await _take_from_rate(key, key.rate, 1, backend)
    return success({"result": result(await backend.publish(item))})


async def _publish_several(items: Sequence[Item], key: Key, backend: Backend) -> Response:
    outcomes = await _publish_items(items, key, backend)
    return success({"result": {"responses": [item_body(outcome) for outcome in outcomes]}})


async def _batch(fields: dict[str, Any], rules: Rules, backend: Backend) -> Response:
    """Run many commands in one round trip to Redis; each has its own reply."""
    commands = batch_commands(fields, rules)
    items = [
        item for command in commands if isinstance(command, BatchCommand) for item in command.items
    ]
    if commands and not items:
        _debts.note_failure(rules.key, time.monotonic())
    outcomes = iter(await _publish_items(items, rules.key, backend))
    replies = []
    for command in commands:
        if isinstance(command, BatchCommand):
            replies.append(_reply(command, [next(outcomes) for _ in command.items]))
        else:
            replies.append(error_body(command))
    return success({"replies": replies})


def _make_command_method(
    read: Callable[[dict[str, Any], Rules], node_commands.NodeCommand],
) -> Method:
    """Return a method that sends a command, read from its fields, to all nodes."""

    async def method(fields: dict[str, Any], rules: Rules, backend: Backend) -> Response:
        await backend.send_node_command(read(fields, rules))
        return success({"result": {}})

    return method


METHODS: dict[str, Method] = {
    "publish": _publish,
    "broadcast": _broadcast,
    "batch": _batch,
    EVENTS: _events,
    **INSPECTIONS,
    **{name: _make_command_method(read) for name, read in READERS.items()},
}
"""By name, as in the path of a request."""


def _reply(command: BatchCommand, outcomes: list[Outcome]) -> dict[str, Any]:
    if command.method == "broadcast":
        return {"broadcast": {"responses": [item_body(outcome) for outcome in outcomes]}}
    [outcome] = outcomes
    if isinstance(outcome, RealtimeError):
        return error_body(outcome)
    return {"publish": result(outcome)}


async def _publish_items(items: Sequence[Item], key: Key, backend: Backend) -> list[Outcome]:
    """Publish the items that are publications; return the outcome of each item, in order."""
    publications = [item for item in items if isinstance(item, Publication)]
    if not publications:
        if items:
            _debts.note_failure(key, time.monotonic())
        return [item for item in items if isinstance(item, RealtimeError)]
    if key.rate is not None:
        await _take_from_rate(key, key.rate, len(publications), backend)
    outcomes = iter(await _publish_all(publications, backend))
    return [next(outcomes) if isinstance(item, Publication) else item for item in items]


async def _publish_all(publications: list[Publication], backend: Backend) -> list[Outcome]:
    if len(publications) > 1:
        return _raise_if_none_sent(await backend.publish_many(publications))
    try:
        return [await backend.publish(publications[0])]
    except RequestError as error:
        return [error]  # of that one publication, also in a batch or a broadcast


async def _take_from_rate(key: Key, rate: float, count: int, backend: Backend) -> None:
    """Count publications against the rate of a key.

    Raises:
        LimitExceeded: They would exceed it.
        BrokerUnavailable: Redis did not answer; nothing was published.
    """
    try:
        wait = await backend.take_from_rate(key.name, rate, count)
    except OutcomeUnknown as error:
        raise BrokerUnavailable(str(error)) from error  # only the count is uncertain
    if wait > 0:
        _debts.note_refusal(key, count, wait, time.monotonic())
        raise _make_rate_error(key, wait)


def _make_rate_error(key: Key, wait: float) -> LimitExceeded:
    return LimitExceeded("too many publications per second with this key", key.rate or 0.0, wait)


def _raise_if_none_sent(outcomes: list[Outcome]) -> list[Outcome]:
    if isinstance(outcomes[0], BrokerError) and all(isinstance(o, BrokerError) for o in outcomes):
        raise outcomes[0]  # all failed in the broker: a 200 would hide it
    return outcomes
