"""Responses of the HTTP API: statuses, bodies, and how errors are logged.

docs/http-api.md documents the bodies and codes.
"""

from __future__ import annotations

import logging
import math
import secrets
import threading
import time
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from realtime.api.cloudevent_attributes import InvalidAttribute
from realtime.api.request import MethodNotAllowed
from realtime.core.outage import Outage
from realtime.errors import ConfigurationError, LimitExceeded, RealtimeError

if TYPE_CHECKING:
    from realtime.brokers import Stats
    from realtime.core.publication import Receipt

logger = logging.getLogger(__name__)


class Response(NamedTuple):
    """A response, which a rim sends; its body is always JSON."""

    status: int
    body: bytes
    headers: Mapping[str, str]


HEADERS = {
    "Content-Type": "application/json",
    "Cache-Control": "no-store",
    # Responses are data: browsers must not treat them as a page, or let pages of other sites read
    # them.
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Headers of every response, in addition to its own `Response.headers`."""

STATUSES: dict[str, tuple[int, int]] = {
    "bad_request": (400, 107),
    "invalid_json": (400, 107),
    "invalid_data": (400, 107),
    "invalid_channel": (400, 107),
    "invalid_event": (400, 107),
    "invalid_tags": (400, 107),
    "invalid_idempotency_key": (400, 107),
    "invalid_fallback": (400, 107),
    "invalid_attribute": (400, 107),
    "token_in_url": (400, 107),
    "too_many_members": (400, 106),
    "too_many_channels": (400, 106),
    "too_many_blocks": (400, 106),
    "unauthorized": (401, 101),
    "forbidden": (403, 103),
    "csrf_failed": (403, 103),
    "method_not_found": (404, 104),
    "session_not_found": (404, 1007),
    "method_not_allowed": (405, 107),
    "request_timeout": (408, 107),
    "idempotency_conflict": (409, 1000),
    "too_large": (413, 107),
    "unsupported_media_type": (415, 107),
    "rate_limited": (429, 111),
    "broker_unavailable": (503, 1001),
    "queue_full": (503, 1005),
    "configuration": (503, 1003),
    "session_unavailable": (503, 1004),
    "not_live": (503, 100),
    "node_full": (503, 1006),
    "outcome_unknown": (504, 1002),
}
"""Reason -> HTTP status and the code in the body: Centrifugo's if it has one, else from 1000."""

_HEADERS = {
    401: {"WWW-Authenticate": 'ApiKey realm="X-API-Key"'},
    405: {"Allow": "POST"},
    429: {"Retry-After": "1"},
    503: {"Retry-After": "1"},
    504: {"Retry-After": "1"},
}
NOT_CONFIGURED = "the service is not configured; see its log"
_encode = msgspec.json.Encoder().encode
_outages: dict[str, Outage] = {}
"""For the log, by reason: errors because of which this process fails requests at present."""
_failures: Counter[str] = Counter()
"""For the metrics: failed requests since the start of the process, by reason."""
_noting = threading.Lock()  # Django's sync view runs in threads


def success(body: dict[str, Any]) -> Response:
    """Return the response to a request that succeeded."""
    if _outages:
        _note_success()
    return _response(200, body)


def failure(error: RealtimeError) -> Response:
    """Return the response to a request that failed."""
    status, _ = STATUSES[error.code]
    request_id = secrets.token_hex(8)
    is_news = False
    with _noting:
        _failures[error.code] += 1
        if status >= 500:
            is_news = _outages.setdefault(error.code, Outage()).note_failure(time.monotonic())
    if status >= 500:
        level = logging.WARNING if is_news else logging.DEBUG
        # Only the log has the details. As ASCII, so that they stay on one line (CWE-117).
        logger.log(
            level, "request %s failed: %s: %s", request_id, error.code, ascii(str(error)),
            extra={"request_id": request_id, "reason": error.code},
        )  # fmt: skip
    response = _response(status, {**error_body(error), "request_id": request_id})
    if isinstance(error, LimitExceeded) and error.retry_seconds is not None:
        seconds = max(1, math.ceil(error.retry_seconds))
        return response._replace(headers={"Retry-After": str(seconds)})
    return response


def count_failures() -> dict[str, int]:
    """Return how many requests have failed, by reason; see docs/http-api.md."""
    with _noting:
        return dict(_failures)


def only_get() -> Response:
    """Return the response to a request that is not a GET, where only that is allowed."""
    response = failure(MethodNotAllowed("use GET"))
    return response._replace(headers={"Allow": "GET, HEAD"})


def _note_success() -> None:
    with _noting:
        now = time.monotonic()
        for reason, outage in list(_outages.items()):
            if (over := outage.note_success(now)) is not None:
                del _outages[reason]
                logger.info(
                    "recovered from %s: %d requests failed within %.1f s",
                    *(reason, over.failures, over.seconds),
                    extra={"reason": reason, "failed": over.failures},
                )


def item_body(outcome: Receipt | RealtimeError) -> dict[str, Any]:
    """Return the body for one of several outcomes: ``{"result":{…}}`` or ``{"error":{…}}``."""
    if isinstance(outcome, RealtimeError):
        return error_body(outcome)
    return {"result": result(outcome)}


def result(receipt: Receipt) -> dict[str, Any]:
    """Return the body of a receipt: ``{"offset":1,"epoch":"…","nodes":2,"queued":false}``."""
    epoch, offset, nodes, repeated, queued = receipt
    fields = {"offset": offset, "epoch": epoch, "nodes": nodes, "queued": queued}
    if repeated:
        fields["repeated"] = True
    return fields


def queue_body(stats: Stats) -> dict[str, Any]:
    """Return the state of the fallback queue as a body; see docs/http-api.md."""
    return {**stats._asdict(), "oldest_seconds": round(stats.oldest_seconds, 1)}


def error_body(error: RealtimeError) -> dict[str, Any]:
    """Return the body of an error: ``{"error":{"code":…,"reason":"…","message":"…"}}``."""
    status, number = STATUSES[error.code]
    text = str(error)
    if not text or status >= 500:
        # Messages of Redis or of a database may name hosts and paths (CWE-209).
        text = (type(error).__doc__ or "").split("\n")[0]
    if isinstance(error, ConfigurationError):
        text = NOT_CONFIGURED
    said = {"code": number, "reason": error.code, "message": text}
    if isinstance(error, InvalidAttribute):
        said["attribute"] = error.attribute
    return {"error": said}


def _response(status: int, body: dict[str, Any]) -> Response:
    # The newline is for reading it in a terminal.
    return Response(status, _encode(body) + b"\n", _HEADERS.get(status, {}))
