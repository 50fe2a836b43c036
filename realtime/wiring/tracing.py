"""Notes in each publication when it was accepted, and its trace if the project enables tracing.

OpenTelemetry is an extra. Only `spans` imports it, and nothing loads that module before
`REALTIME_TRACING` is on.
"""

from __future__ import annotations

import time
from collections.abc import Coroutine, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec.structs import replace

from realtime.core.traceparent import read_traceparent
from realtime.errors import ConfigurationError
from realtime.wiring.configured import once, settings

if TYPE_CHECKING:
    from realtime.core.publication import Publication
    from realtime.fallbacks.worker import Handler
    from realtime.wiring.spans import Spans

T = TypeVar("T")


def stamp(publication: Publication, trace: str = "") -> Publication:
    """Note in a publication that our code accepts it now, and the trace of its span if any."""
    return publication.stamp(time.time_ns() // 1_000_000, trace)


def stamp_all(publications: Sequence[Publication]) -> list[Publication]:
    """Note in publications that our code accepts them now, together, outside of any trace."""
    now_ms = time.time_ns() // 1_000_000
    return [replace(publication, sent_ms=now_ms) for publication in publications]


@once
def spans() -> Spans | None:
    """Return what makes the spans of this process; None without tracing."""
    try:
        if not settings().tracing:
            return None
    except ConfigurationError:  # raised again by publishing, but a job must run even so
        return None
    from realtime.wiring.spans import Spans

    return Spans()


def continue_trace(header: str, work: Coroutine[Any, Any, T]) -> Coroutine[Any, Any, T]:
    """Return work that takes place in the trace of a request.

    Args:
        header: The header ``traceparent`` of the request. An invalid one is ignored.
        work: Returned as it is without tracing.
    """
    if not header or (found := spans()) is None or not (trace := read_traceparent(header)):
        return work
    return found.work_within(trace, work)


def trace_handlers(handlers: dict[str, Handler]) -> dict[str, Handler]:
    """Return the handlers of fallbacks, each with a span around its attempts if tracing is on."""
    if (found := spans()) is None:
        return handlers
    return {name: found.trace_handler(handler) for name, handler in handlers.items()}


def send_job(name: str, task_id: str) -> AbstractContextManager[str]:
    """Return a context for sending a background job; its value is the trace to send, if any.

    Args:
        name: The name of the task.
        task_id: The id of the job.
    """
    return nullcontext("") if (found := spans()) is None else found.send_job(name, task_id)


def run_job(
    name: str, task_id: str, trace: str, no_error: type[Exception]
) -> AbstractContextManager[None]:
    """Return a context for running a background job.

    Args:
        name: The name of the task.
        task_id: The id of the job.
        trace: The trace in which it was sent; empty is none.
        no_error: What a job may raise without having failed.
    """
    if (found := spans()) is None:
        return nullcontext()
    return found.run_job(name, task_id, trace, no_error)
