"""Reads and encodes calls of Celery tasks: their arguments, users, traces and delays."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from kombu.utils import json

from realtime.core.traceparent import read_traceparent

TRACE = "traceparent"
"""The header of a message; OpenTelemetry's instrumentation of Celery has the same."""


def encode_call(name: str, args: Any, kwargs: Any, user: str, trace: str = "") -> str:
    """Return a call as text, to send it again; empty if Celery cannot encode it as JSON."""
    given = {"live_user": user, TRACE: trace}
    headers = {key: value for key, value in given.items() if value}
    call = {"task": name, "args": list(args or ()), "kwargs": kwargs or {}, "headers": headers}
    try:
        return str(json.dumps(call))  # type: ignore[no-untyped-call]
    except (TypeError, ValueError):
        return ""


def user_of(request: Any) -> str:
    """Return the user for whom a task was started, from its request or its headers."""
    return _header(request, "live_user")


def trace_of(request: Any) -> str:
    """Return the trace in which a task was sent, from its request; empty is none."""
    return read_traceparent(_header(request, TRACE))


def _header(request: Any, name: str) -> str:
    if request is None:
        return ""
    value = request.get(name)
    if value is None and (headers := request.get("headers")):
        value = headers.get(name)
    return value if isinstance(value, str) else ""


def seconds_until(countdown: float | None, eta: datetime | None) -> float:
    """Return the delay of a call that has one of Celery's two options for it, or neither."""
    if eta is not None:
        now = datetime.now(eta.tzinfo or UTC)
        return max(0.0, (eta.replace(tzinfo=eta.tzinfo or UTC) - now).total_seconds())
    return countdown or 0.0
