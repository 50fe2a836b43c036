"""What a request to the HTTP API must be before anybody looks at its fields."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, NamedTuple

from realtime.cloudevents import BATCH, STRUCTURED
from realtime.errors import InvalidData, InvalidName, RequestError, TooLarge
from realtime.publication import ESCAPED, decoded

EVENTS = "events"  # the method that takes CloudEvents
PUBLISH_BYTES = ESCAPED * 80 * 1024
"""Of a body: data of 64 KiB, tags, options and names, each character of them escaped."""
MANY_BYTES = 1024 * 1024


class Request(NamedTuple):
    """The head of a request; a header that came twice is joined by a comma, as Django does it."""

    http_method: str
    api_method: str
    content_length: str = ""
    content_type: str = ""
    content_encoding: str = ""
    api_key: str = ""
    idempotency_key: str | None = None
    query: str = ""
    body_bytes: int | None = None
    """What the site allows; None is `body_limit`."""
    attributes: Mapping[str, str] | None = None
    """Of a CloudEvent: the headers ``ce-…`` by what follows; read for `EVENTS` alone."""


class TokenInUrl(RequestError):
    """A secret stands where everybody writes it down."""

    code = "token_in_url"


class MethodNotFound(RequestError):
    """There is no such method."""

    code = "method_not_found"


class MethodNotAllowed(RequestError):
    """The API is used by POST."""

    code = "method_not_allowed"


class UnsupportedMediaType(RequestError):
    """The body must be application/json or a CloudEvent, not compressed."""

    code = "unsupported_media_type"


class RequestTimeout(RequestError):
    """The body did not come in time."""

    code = "request_timeout"


class InvalidJson(RequestError):
    """The body is not a JSON object."""

    code = "invalid_json"


def body_limit(api_method: str, one: int = PUBLISH_BYTES, many: int = MANY_BYTES) -> int:
    """Return how many bytes of a body a rim must read at most: one more is too large.

    Args:
        api_method: Whose body.
        one: What the site allows for one publication.
        many: What it allows for several.
    """
    return many if api_method in ("broadcast", "batch", EVENTS) else one


def check_body(request: Request, body: bytes = b"") -> None:
    """Refuse a body by what the head says of it, and by its size as far as it is known.

    Raises:
        UnsupportedMediaType: It is not JSON, or compressed.
        TooLarge: It is or will be over the limit.
    """
    if request.content_encoding.strip().lower() not in ("", "identity"):
        raise UnsupportedMediaType("the body must not be compressed")
    if request.api_method == EVENTS:
        mode_of(request)
    elif _media_type(request) != "application/json":
        raise UnsupportedMediaType("the header Content-Type must be application/json")
    limit = request.body_bytes or body_limit(request.api_method)
    size = max(len(body), _announced(request.content_length))
    if size > limit:
        raise TooLarge("the body", size, limit)


class Mode(Enum):
    """How an HTTP message carries CloudEvents (HTTP protocol binding §3)."""

    STRUCTURED = "structured"
    BINARY = "binary"
    BATCH = "batch"


def mode_of(request: Request) -> Mode:
    """Return how a request carries CloudEvents.

    Raises:
        UnsupportedMediaType: It carries none that we can read.
    """
    media = _media_type(request)
    if media == STRUCTURED:
        return Mode.STRUCTURED
    if media == BATCH:
        return Mode.BATCH
    if not media.startswith("application/cloudevents") and request.attributes:
        return Mode.BINARY
    raise UnsupportedMediaType(
        f"the header Content-Type must be {STRUCTURED} or {BATCH}, "
        "or the attributes stand in headers such as ce-id"
    )


def _media_type(request: Request) -> str:
    return request.content_type.partition(";")[0].strip().lower()


def fields_of(request: Request, body: bytes) -> dict[str, Any]:
    """Return the fields of a request.

    Raises:
        InvalidJson: The body is not a JSON object that everybody can read.
        InvalidName: Header and body name different idempotency keys.
    """
    try:
        fields = decoded(body)
    except InvalidData as error:
        raise InvalidJson(error.reason) from None
    if not isinstance(fields, dict):
        raise InvalidJson("the body must be an object")
    if request.idempotency_key is not None:
        _take_header(fields, request.idempotency_key)
    return fields


def _announced(content_length: str) -> int:
    """Return how long the body will be; what else is wrong with this header, servers refuse."""
    digits = content_length.strip()
    return int(digits) if digits.isdecimal() and len(digits) < 20 else 0


def _take_header(fields: dict[str, Any], key: str) -> None:
    """The header Idempotency-Key is the field `idempotency_key`, written elsewhere."""
    if fields.get("idempotency_key") not in (None, key):
        raise InvalidName("idempotency_key", key, "the header and the body name different ones")
    fields["idempotency_key"] = key
