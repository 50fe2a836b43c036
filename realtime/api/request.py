"""Checks the head, size and form of a request to the HTTP API, before its fields are read."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import Enum
from typing import Any, NamedTuple

from realtime.api.cloudevents import BATCH, STRUCTURED
from realtime.core.json_text import TooDeep, decode_json
from realtime.core.limits import MANY_BYTES, PUBLISH_BYTES
from realtime.errors import InvalidData, InvalidName, RequestError, TooLarge

EVENTS = "events"  # the method that takes CloudEvents


class Request(NamedTuple):
    """The head of a request. Repeated headers are joined by commas, as in Django."""

    http_method: str
    api_method: str
    content_length: str = ""
    content_type: str = ""
    content_encoding: str = ""
    api_key: str = ""
    idempotency_key: str | None = None
    query: str = ""
    body_bytes: int | None = None
    """The limit of the site; None is `body_limit`."""
    attributes: Mapping[str, str] | None = None
    """The ``ce-`` headers of a CloudEvent, without that prefix; only read for `EVENTS`."""
    traceparent: str = ""
    """The trace of the publisher, as it was sent; see `realtime.wiring.continue_trace`."""

    @property
    def most_bytes(self) -> int:
        """The largest body; a rim need not read more than one byte beyond it."""
        return self.body_bytes or body_limit(self.api_method)


class TokenInUrl(RequestError):
    """The URL contains a secret."""

    code = "token_in_url"


class MethodNotFound(RequestError):
    """The method does not exist."""

    code = "method_not_found"


class MethodNotAllowed(RequestError):
    """The request must use another HTTP method."""

    code = "method_not_allowed"


class UnsupportedMediaType(RequestError):
    """The body must be application/json or a CloudEvent, not compressed."""

    code = "unsupported_media_type"


class RequestTimeout(RequestError):
    """The body did not arrive in time."""

    code = "request_timeout"


class InvalidJson(RequestError):
    """The body is not a JSON object."""

    code = "invalid_json"


def body_limit(api_method: str, one: int = PUBLISH_BYTES, many: int = MANY_BYTES) -> int:
    """Return the largest body of a method, in bytes.

    Args:
        api_method: The method.
        one: The limit for one publication.
        many: The limit for several.
    """
    return many if api_method in ("broadcast", "batch", EVENTS) else one


def check_head(request: Request) -> None:
    """Refuse a body by its headers, before it is read.

    Raises:
        UnsupportedMediaType: The body is not JSON, or is compressed.
        TooLarge: The announced length is over the limit.
    """
    if request.content_encoding.strip().lower() not in ("", "identity"):
        raise UnsupportedMediaType("the body must not be compressed")
    if request.api_method == EVENTS:
        mode_of(request)
    elif _media_type(request) != "application/json":
        raise UnsupportedMediaType("the header Content-Type must be application/json")
    check_size(request, _read_content_length(request.content_length))


def check_size(request: Request, size: int) -> None:
    """Refuse a body by its size.

    Raises:
        TooLarge: The body is over the limit.
    """
    if size > request.most_bytes:
        raise TooLarge("the body", size, request.most_bytes)


class Mode(Enum):
    """How an HTTP message carries CloudEvents (HTTP protocol binding §3)."""

    STRUCTURED = "structured"
    BINARY = "binary"
    BATCH = "batch"


def mode_of(request: Request) -> Mode:
    """Return how a request carries CloudEvents.

    Raises:
        UnsupportedMediaType: It carries no events, or carries them in an unknown form.
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
        "or the attributes must be sent in headers such as ce-id"
    )


def _media_type(request: Request) -> str:
    return request.content_type.partition(";")[0].strip().lower()


def fields_of(request: Request, body: bytes) -> dict[str, Any]:
    """Return the fields of a request.

    Raises:
        InvalidJson: The body is not a JSON object, or not one that every parser can read.
        InvalidName: Header and body have different idempotency keys.
    """
    try:
        fields = decode_json(body)
    except TooDeep:
        raise
    except InvalidData as error:
        raise InvalidJson(error.reason) from None
    if not isinstance(fields, dict):
        raise InvalidJson("the body must be a JSON object")
    if request.idempotency_key is not None:
        _take_header(fields, request.idempotency_key)
    return fields


def refuse_unknown(fields: dict[str, Any], known: Collection[str]) -> None:
    """Refuse fields that the method does not know: ignoring a misspelt option would break it.

    Raises:
        InvalidData: A field is unknown.
    """
    for name in fields:
        if name not in known:
            raise InvalidData(f"unknown field {ascii(name)[:40]}", field="body")


def _read_content_length(content_length: str) -> int:
    """Return the announced length of a body; 0 if it is invalid, which servers refuse."""
    digits = content_length.strip()
    return int(digits) if digits.isdecimal() and len(digits) < 20 else 0


def _take_header(fields: dict[str, Any], key: str) -> None:
    """Set the field `idempotency_key` from the header Idempotency-Key."""
    if fields.get("idempotency_key") not in (None, key):
        raise InvalidName("idempotency_key", key, "the header and the body have different keys")
    fields["idempotency_key"] = key
