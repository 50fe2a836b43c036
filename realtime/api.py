"""The HTTP API as one rule: bytes and credentials in, status and bytes out.

It touches neither sockets nor Redis: it yields what is to be published and is sent what became of
it, so that a sync and an async rim can drive the same rule. Methods and fields are Centrifugo's
(centrifugal.dev/docs/server/server_api), statuses are real ones. Bodies and codes:
docs/http-api.md.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from realtime.errors import (
    BrokerError,
    ConfigurationError,
    InvalidData,
    InvalidName,
    RealtimeError,
    RequestError,
    TooLarge,
    Unauthorized,
)
from realtime.namespaces import Namespaces
from realtime.outage import Outage
from realtime.publication import Publication, Receipt, decoded

logger = logging.getLogger(__name__)

PUBLISH_BYTES = 80 * 1024  # of a body: data 64 KiB and the rest
MANY_BYTES = 1024 * 1024
MANY_ITEMS = 100

Outcome = Receipt | RealtimeError
Outcomes = list[Outcome] | RealtimeError
"""One for each publication, or one error for all."""
Work = Generator[Sequence[Publication], Outcomes, "Response"]
Method = Callable[[dict[str, Any], Namespaces], Work]


class Request(NamedTuple):
    """What a rim has read; a header that came twice is joined by a comma, as Django does it."""

    http_method: str
    api_method: str
    body: bytes = b""
    content_length: str = ""
    content_type: str = ""
    content_encoding: str = ""
    api_key: str = ""
    idempotency_key: str | None = None


class Response(NamedTuple):
    """What a rim answers; always JSON."""

    status: int
    body: bytes
    headers: Mapping[str, str]


class Access:
    """Who may use the API: whoever knows the key. Keeps only its digest."""

    def __init__(self, api_key: str) -> None:
        """Take the secret; an empty one lets nobody in."""
        self._digest = hashlib.sha256(api_key.encode()).digest() if api_key else None

    def check(self, api_key: str) -> None:
        """Let in or not; takes the same time for every wrong key.

        Raises:
            Unauthorized: The key is wrong, missing, or none is configured.
        """
        if self._digest is None:
            raise Unauthorized(
                "this service has no API key: set REALTIME_API_KEY (the service: NOTIFIER_API_KEY)"
            )
        given = hashlib.sha256(api_key.encode("utf-8", "surrogatepass")).digest()
        if not hmac.compare_digest(given, self._digest):
            raise Unauthorized("the header X-API-Key is missing or wrong")


class MethodNotFound(RequestError):
    """There is no such method."""

    code = "method_not_found"


class MethodNotAllowed(RequestError):
    """The API is used by POST."""

    code = "method_not_allowed"


class UnsupportedMediaType(RequestError):
    """The body must be application/json, not compressed."""

    code = "unsupported_media_type"


class RequestTimeout(RequestError):
    """The body did not come in time."""

    code = "request_timeout"


STATUSES: dict[str, tuple[int, int]] = {
    "bad_request": (400, 107),
    "invalid_json": (400, 107),
    "invalid_data": (400, 107),
    "invalid_channel": (400, 107),
    "invalid_event": (400, 107),
    "invalid_tags": (400, 107),
    "invalid_idempotency_key": (400, 107),
    "invalid_fallback": (400, 107),
    "unauthorized": (401, 101),
    "forbidden": (403, 103),
    "method_not_found": (404, 104),
    "method_not_allowed": (405, 107),
    "request_timeout": (408, 107),
    "idempotency_conflict": (409, 1000),
    "too_large": (413, 107),
    "unsupported_media_type": (415, 107),
    "rate_limited": (429, 111),
    "broker_unavailable": (503, 1001),
    "configuration": (503, 1003),
    "outcome_unknown": (504, 1002),
}
"""Reason -> HTTP status and the number in the body: Centrifugo's if it has one, ours from 1000."""

_HEADERS = {
    401: {"WWW-Authenticate": 'ApiKey realm="X-API-Key"'},
    405: {"Allow": "POST"},
    429: {"Retry-After": "1"},
    503: {"Retry-After": "1"},
    504: {"Retry-After": "1"},
}
_encode = msgspec.json.Encoder().encode
_outages: dict[str, Outage] = {}
"""By reason: of the requests that this process cannot serve at present, for its log."""
_noting = threading.Lock()  # Django's sync view runs in threads


def body_limit(api_method: str) -> int:
    """Return how many bytes of a body a rim must read at most: one more is too large."""
    return PUBLISH_BYTES if api_method == "publish" else MANY_BYTES


def refusal(request: Request, access: Access) -> Response | None:
    """Return the answer to a request whose body need not be read, since it is refused anyway.

    Otherwise whoever has no key could make us hold a megabyte for each of his connections.
    """
    try:
        _admitted(request, access)
    except RealtimeError as error:
        return failure(error)
    return None


def respond(request: Request, access: Access, namespaces: Namespaces) -> Work:
    """Do a request: yield the publications, take what became of them, return the response.

    Raises nothing.
    """
    try:
        method = _admitted(request, access)
        response = yield from method(_parsed(request), namespaces)
    except RealtimeError as error:
        return failure(error)
    if _outages:
        _note_success()
    return response


def _note_success() -> None:
    with _noting:
        now = time.monotonic()
        for reason, outage in list(_outages.items()):
            if (over := outage.worked(now)) is not None:
                del _outages[reason]
                logger.info(
                    "no more %s: %d requests failed within %.1f s",
                    *(reason, over.failures, over.seconds),
                    extra={"reason": reason, "failed": over.failures},
                )


def failure(error: RealtimeError) -> Response:
    """Return the response that tells an error."""
    status, _ = STATUSES[error.code]
    request_id = secrets.token_hex(8)
    if status >= 500:
        with _noting:
            is_news = _outages.setdefault(error.code, Outage()).failed(time.monotonic())
        level = logging.WARNING if is_news else logging.DEBUG
        # The details are for those who run the service; as ASCII, on one line (CWE-117).
        logger.log(
            level, "request %s failed: %s: %s", request_id, error.code, ascii(str(error)),
            extra={"request_id": request_id, "reason": error.code},
        )  # fmt: skip
    return _response(status, {**_error(error), "request_id": request_id})


def _admitted(request: Request, access: Access) -> Method:
    method = _METHODS.get(request.api_method)
    if method is None:
        raise MethodNotFound(f"the methods are {', '.join(_METHODS)}")
    if request.http_method != "POST":
        raise MethodNotAllowed("send a POST")
    access.check(request.api_key)
    if request.content_encoding.strip().lower() not in ("", "identity"):
        raise UnsupportedMediaType("the body must not be compressed")
    if request.content_type.partition(";")[0].strip().lower() != "application/json":
        raise UnsupportedMediaType("the header Content-Type must be application/json")
    limit = body_limit(request.api_method)
    size = max(len(request.body), _announced(request.content_length))
    if size > limit:
        raise TooLarge("the body", size, limit)
    return method


def _announced(content_length: str) -> int:
    """Return how long the body will be; what else is wrong with this header, servers refuse."""
    digits = content_length.strip()
    return int(digits) if digits.isdecimal() and len(digits) < 20 else 0


def _parsed(request: Request) -> dict[str, Any]:
    try:
        fields = decoded(request.body)
    except InvalidData as error:
        raise InvalidJson(error.reason) from None
    if not isinstance(fields, dict):
        raise InvalidJson("the body must be an object")
    if request.idempotency_key is not None:
        _take_header(fields, request.idempotency_key)
    return fields


def _take_header(fields: dict[str, Any], key: str) -> None:
    """The header Idempotency-Key is the field `idempotency_key`, written elsewhere."""
    if fields.get("idempotency_key") not in (None, key):
        raise InvalidName("idempotency_key", key, "the header and the body name different ones")
    fields["idempotency_key"] = key


class InvalidJson(RequestError):
    """The body is not a JSON object."""

    code = "invalid_json"


def _publish(fields: dict[str, Any], namespaces: Namespaces) -> Work:
    outcomes = yield [_publication(fields, namespaces)]
    [outcome] = _each(outcomes)
    if isinstance(outcome, RealtimeError):
        raise outcome
    return _response(200, {"result": result(outcome)})


def _broadcast(fields: dict[str, Any], namespaces: Namespaces) -> Work:
    items = _broadcast_items(fields, namespaces)
    outcomes = yield from _published(items)
    return _response(200, {"result": {"responses": [_item(outcome) for outcome in outcomes]}})


def _batch(fields: dict[str, Any], namespaces: Namespaces) -> Work:
    """Do many commands in one round trip to Redis; each has its own reply."""
    commands = [_command(command, namespaces) for command in _batch_commands(fields)]
    items = [
        item
        for command in commands
        if not isinstance(command, RealtimeError)
        for item in command.items
    ]
    outcomes = iter((yield from _published(items)))
    replies = []
    for command in commands:
        if isinstance(command, RealtimeError):
            replies.append(_error(command))
        else:
            replies.append(_reply(command, [next(outcomes) for _ in command.items]))
    return _response(200, {"replies": replies})


_METHODS: dict[str, Method] = {"publish": _publish, "broadcast": _broadcast, "batch": _batch}


class _Command(NamedTuple):
    method: str
    items: list[Publication | RealtimeError]


def _batch_commands(fields: dict[str, Any]) -> list[Any]:
    key = fields.pop("idempotency_key", None)
    if key is not None:
        raise InvalidName("idempotency_key", key, "a batch has none; each publish in it may")
    _refuse_unknown(fields, {"commands", "parallel"})
    commands = fields.get("commands")
    if not isinstance(commands, list):
        raise InvalidData("must be a list of commands", field="commands")
    if len(commands) > MANY_ITEMS:
        raise TooLarge("the batch", len(commands), MANY_ITEMS, unit="commands")
    publications = sum(map(_size, commands))
    if publications > MANY_ITEMS:
        raise TooLarge("the batch", publications, MANY_ITEMS, unit="publications")
    return commands


def _size(command: Any) -> int:
    """Count the publications of a command before any is built: each may have 64 KiB."""
    broadcast = command.get("broadcast") if isinstance(command, dict) else None
    channels = broadcast.get("channels") if isinstance(broadcast, dict) else None
    return len(channels) if isinstance(channels, list) else 1


def _command(command: Any, namespaces: Namespaces) -> _Command | RealtimeError:
    """Read one command of a batch; what is wrong with it does not touch the others."""
    try:
        if not isinstance(command, dict) or len(command) != 1:
            raise InvalidData("a command is an object with one method", field="commands")
        [(method, fields)] = command.items()
        if not isinstance(fields, dict):
            raise InvalidData("the fields of a method are an object", field="commands")
        if method == "publish":
            return _Command(method, [_publication(fields, namespaces)])
        if method == "broadcast":
            return _Command(method, _broadcast_items(fields, namespaces))
        raise MethodNotFound(f"a batch can hold publish and broadcast, not {ascii(method)[:40]}")
    except RequestError as error:
        return error


def _reply(command: _Command, outcomes: list[Outcome]) -> dict[str, Any]:
    if command.method == "broadcast":
        return {"broadcast": {"responses": [_item(outcome) for outcome in outcomes]}}
    [outcome] = outcomes
    return _error(outcome) if isinstance(outcome, RealtimeError) else {"publish": result(outcome)}


def _broadcast_items(
    fields: dict[str, Any], namespaces: Namespaces
) -> list[Publication | RealtimeError]:
    _refuse_unknown(fields, (_KNOWN | _IGNORED | {"channels"}) - {"channel"})
    channels = fields.get("channels")
    if not isinstance(channels, list) or not channels:
        raise InvalidData("must be a list of channels", field="channels")
    if len(channels) > MANY_ITEMS:
        raise TooLarge("the broadcast", len(channels), MANY_ITEMS, unit="channels")
    rest = {name: value for name, value in fields.items() if name != "channels"}
    items: list[Publication | RealtimeError] = []
    for channel in channels:
        try:
            items.append(_publication({**rest, "channel": channel}, namespaces))
        except InvalidName as error:
            if error.field != "channel":
                raise  # wrong for all of them
            items.append(error)
    return items


_KNOWN = {"channel", "data", "event", "tags", "idempotency_key", "fallback"}
_IGNORED = {"skip_history", "delta"}  # Centrifugo's, about history, which we do not have


def _publication(fields: dict[str, Any], namespaces: Namespaces) -> Publication:
    _refuse_unknown(fields, _KNOWN | _IGNORED)
    if "channel" not in fields:
        raise InvalidName("channel", None, "it is missing")
    if "data" not in fields:
        raise InvalidData("is missing")
    if fields.get("fallback") is not None:
        raise InvalidName("fallback", fields["fallback"], "no fallback of this name is configured")
    publication = Publication.of(
        fields["channel"],
        fields["data"],
        event=fields.get("event"),
        tags=fields.get("tags"),
        idempotency_key=fields.get("idempotency_key"),
    )
    namespaces.for_publishing(publication.channel)
    return publication


def _refuse_unknown(fields: dict[str, Any], known: set[str]) -> None:
    """A misspelt option that was ignored would be a promise that nobody keeps."""
    for name in fields:
        if name not in known:
            raise InvalidData(f"unknown field {ascii(name)[:40]}", field="body")


def _published(
    items: Sequence[Publication | RealtimeError],
) -> Generator[Sequence[Publication], Outcomes, list[Outcome]]:
    """Publish those items that can be, and return what became of each of all."""
    publications = [item for item in items if isinstance(item, Publication)]
    outcomes = iter(_each((yield publications)) if publications else [])
    return [next(outcomes) if isinstance(item, Publication) else item for item in items]


def _each(outcomes: Outcomes) -> list[Outcome]:
    if isinstance(outcomes, RealtimeError):
        raise outcomes
    if isinstance(outcomes[0], BrokerError) and all(isinstance(o, BrokerError) for o in outcomes):
        raise outcomes[0]  # the broker refused each of them: a 200 would hide it
    return outcomes


def _item(outcome: Outcome) -> dict[str, Any]:
    return _error(outcome) if isinstance(outcome, RealtimeError) else {"result": result(outcome)}


def result(receipt: Receipt) -> dict[str, Any]:
    """Return a receipt as it is answered: ``{"offset":1,"epoch":"…","nodes":2,"queued":false}``."""
    fields = {"offset": receipt.offset, "epoch": receipt.epoch, "nodes": receipt.nodes}
    repeated = {"repeated": True} if receipt.repeated else {}
    return {**fields, "queued": False, **repeated}


def _error(error: RealtimeError) -> dict[str, Any]:
    _, number = STATUSES[error.code]
    text = str(error)
    if not text or isinstance(error, BrokerError):
        text = (type(error).__doc__ or "").split("\n")[0]  # Redis' own words name hosts and paths
    if isinstance(error, ConfigurationError):
        text = "the service is not configured; its log says what is missing"
    return {"error": {"code": number, "reason": error.code, "message": text}}


def _response(status: int, body: dict[str, Any]) -> Response:
    # The newline is for whoever reads it in a terminal.
    return Response(status, _encode(body) + b"\n", _HEADERS.get(status, {}))
