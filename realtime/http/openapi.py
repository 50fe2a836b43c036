"""Describes the HTTP API in OpenAPI 3.1, from the declarations that the API itself uses.

Fields and limits come from `realtime.api.fields` and `realtime.api.cloudevent_attributes`, statuses
and reasons from `realtime.api.answers`. tests/e2e/test_description.py compares everything else with
the running service, using schemathesis.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from realtime._version import __version__
from realtime.api import cloudevents
from realtime.api.answers import STATUSES
from realtime.api.cloudevent_attributes import ATTRIBUTES
from realtime.api.fields import Shape, ref, text
from realtime.core.names import KEY, KEY_LIMIT
from realtime.http.openapi_methods import ANY_REASON, DESCRIBED_METHODS
from realtime.http.openapi_schemas import request_name, request_schemas, response_schemas

JSON = "application/json"

_HEAD_TOO_LARGE = 431  # has no reason of its own: servers send it before a method is called
_IN_SECONDS = {"Retry-After": {"schema": {"type": "integer"}, "description": "In seconds."}}


def document(shape: Shape, root: str = "") -> dict[str, Any]:
    """Return the description.

    Args:
        shape: The limits of this site.
        root: The part of this site's URLs before ``/api/``.
    """
    errors = _Errors()
    operations = {name: _operation(name, errors) for name in DESCRIBED_METHODS}
    return {
        "openapi": "3.1.0",
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "info": {
            "title": "Live notifications: HTTP API",
            "version": __version__,
            "summary": "Publish events that every open browser shows within milliseconds.",
            "description": "Delivery is live and at most once: nothing is stored or replayed. "
            "A client that missed publications is told exactly which.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": root or "/"}],
        "security": [{"apiKey": []}],
        "tags": [{"name": name} for name in ("Publishing", "Users", "Inspection", "Probes")],
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
                    "description": "The secret of an API key. Never put it in a URL.",
                }
            },
            "schemas": {**request_schemas(shape), **response_schemas(shape)},
            "responses": errors.responses,
        },
    }


def _operation(name: str, errors: _Errors) -> dict[str, Any]:
    method = DESCRIBED_METHODS[name]
    operation: dict[str, Any] = {
        "operationId": name,
        "summary": method.summary,
        "description": method.about,
        "tags": [method.group],
        "requestBody": {"required": True, "content": _content(name)},
        "responses": {
            "200": {"description": "Success.", "content": {JSON: {"schema": ref(method.result)}}},
            **errors.of((*ANY_REASON, *method.reasons)),
        },
    }
    if method.takes_idempotency_key:
        operation["parameters"] = [_IDEMPOTENCY_KEY]
    if method.fields is None:
        operation["parameters"] = [_header(name) for name in sorted(ATTRIBUTES)]
        operation["requestBody"]["required"] = False  # in binary mode data is optional
    return operation


def _content(name: str) -> dict[str, Any]:
    if DESCRIBED_METHODS[name].fields is not None:
        return {JSON: {"schema": ref(request_name(name))}}
    return {
        cloudevents.STRUCTURED: {"schema": ref("CloudEvent")},
        cloudevents.BATCH: {"schema": ref("CloudEvents")},
    }


_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "Same as the field `idempotency_key`.",
    "schema": text(KEY_LIMIT, KEY.pattern),
}


def _header(attribute: str) -> dict[str, Any]:
    about = f"The attribute `{attribute}` in binary mode, percent-encoded."
    return {
        "name": f"ce-{attribute}",
        "in": "header",
        "description": about,
        "schema": {"type": "string"},
    }


class _Errors:
    """The error responses; methods with the same status and reasons share one."""

    def __init__(self) -> None:
        self.responses: dict[str, Any] = {}
        self._names: dict[tuple[int, tuple[str, ...]], str] = {}

    def of(self, reasons: Iterable[str]) -> dict[str, Any]:
        """Return references to the responses for these reasons, by status."""
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
    "/livez": _probe("Liveness of the process", {"200": "The process is alive."}),
    "/readyz": _probe(
        "Readiness for traffic",
        {"200": "Ready.", "503": "Redis is unreachable, or the node is shutting down."},
    ),
}
