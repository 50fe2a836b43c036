"""The spans of publications, of attempts of fallbacks, and of background jobs.

The attributes are those of OpenTelemetry's semantic conventions for messaging
(opentelemetry.io/docs/specs/semconv/messaging). A publish is a producer's span. What happens to the
publication later is a consumer's span of its own trace, *linked* to the first: it may happen hours
later, and several times. Deliveries have no spans: one publication may have a hundred thousand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from opentelemetry import context, trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from realtime._version import __version__
from realtime.core.names import namespace_of
from realtime.core.publication import Receipt
from realtime.errors import RealtimeError
from realtime.wiring.tracing import stamp

if TYPE_CHECKING:
    from realtime.core.fallback_entry import Queued
    from realtime.core.publication import Publication
    from realtime.fallbacks.worker import Handler

T = TypeVar("T")
Answers = list[Receipt | RealtimeError]
SYSTEM = "django_realtime_notifier"
PUBLISH = "publish"


class Spans:
    """Makes spans with the tracer provider of the process, which the project configures."""

    def __init__(self) -> None:
        self._tracer = trace.get_tracer("realtime", __version__)
        self._propagator = TraceContextTextMapPropagator()

    # --- publishing ---

    async def publish(
        self, publication: Publication, send: Callable[[Publication], Awaitable[Receipt]]
    ) -> Receipt:
        """Publish in a span. ``send`` gets the publication with the time and this trace."""
        with self._publish_span([publication]) as span:
            return _note_receipt(span, await send(stamp(publication, traceparent_of(span))))

    async def publish_many(
        self,
        publications: Sequence[Publication],
        send: Callable[[Sequence[Publication]], Awaitable[Answers]],
    ) -> Answers:
        """Like `publish`, with one span for all."""
        with self._publish_span(publications) as span:
            return _note_answers(span, await send(_stamp_all(publications, span)))

    def publish_sync(
        self, publication: Publication, send: Callable[[Publication], Receipt]
    ) -> Receipt:
        """Like `publish`, for threads."""
        with self._publish_span([publication]) as span:
            return _note_receipt(span, send(stamp(publication, traceparent_of(span))))

    def publish_many_sync(
        self,
        publications: Sequence[Publication],
        send: Callable[[Sequence[Publication]], Answers],
    ) -> Answers:
        """Like `publish_many`, for threads."""
        with self._publish_span(publications) as span:
            return _note_answers(span, send(_stamp_all(publications, span)))

    def _publish_span(self, publications: Sequence[Publication]) -> Any:
        attributes: dict[str, Any] = _attributes_of(PUBLISH, "send")
        channels = {each.channel for each in publications}
        if len(channels) == 1:
            attributes["messaging.destination.name"] = next(iter(channels))
        if len(publications) != 1:
            attributes["messaging.batch.message_count"] = len(publications)
        name = _span_name(PUBLISH, channels)
        kind = trace.SpanKind.PRODUCER
        return self._tracer.start_as_current_span(name, kind=kind, attributes=attributes)

    async def work_within(self, traceparent: str, work: Coroutine[Any, Any, T]) -> T:
        """Do the work of a request in its trace, unless the server has begun a span for it."""
        if trace.get_current_span().get_span_context().is_valid:
            return await work
        token = context.attach(self._propagator.extract({"traceparent": traceparent}))
        try:
            return await work
        finally:
            context.detach(token)

    # --- what happens later ---

    def trace_handler(self, handler: Handler) -> Handler:
        """Return the handler of a fallback with a span around each attempt."""

        async def handle(queued: Queued) -> None:
            attributes = {
                "messaging.destination.name": queued.channel,
                "messaging.message.id": queued.id,
                "messaging.consumer.group.name": queued.fallback,
                "realtime.attempt": queued.attempt,
            }
            name = f"process {queued.fallback}"
            with self._linked_span(name, "process", queued.trace, attributes) as span:
                await handler(replace(queued, trace=traceparent_of(span) or queued.trace))

        return handle

    @contextmanager
    def send_job(self, name: str, task_id: str) -> Iterator[str]:
        """Send a background job in a span; yield the trace to send with it."""
        attributes = {**_attributes_of("send", "send"), **_attributes_of_job(name, task_id)}
        kind = trace.SpanKind.PRODUCER
        with self._tracer.start_as_current_span(
            f"send {name}", kind=kind, attributes=attributes
        ) as span:
            yield traceparent_of(span)

    @contextmanager
    def run_job(
        self, name: str, task_id: str, traceparent: str, no_error: type[Exception]
    ) -> Iterator[None]:
        """Run a background job in a span, unless an instrumented Celery has begun one."""
        if trace.get_current_span().get_span_context().is_valid:
            yield
            return
        end: Exception | None = None
        attributes = _attributes_of_job(name, task_id)
        with self._linked_span(f"process {name}", "process", traceparent, attributes):
            try:
                yield
            except no_error as error:  # raised outside of the span, which would note it
                end = error
        if end is not None:
            raise end

    @contextmanager
    def _linked_span(
        self, name: str, operation: str, traceparent: str, attributes: dict[str, Any]
    ) -> Iterator[trace.Span]:
        """Make a consumer's span, which begins a trace and is linked to another."""
        with self._tracer.start_as_current_span(
            name,
            context.Context(),
            kind=trace.SpanKind.CONSUMER,
            attributes={**_attributes_of(operation, "process"), **attributes},
            links=self._links_to(traceparent),
        ) as span:
            try:
                yield span
            except asyncio.CancelledError:  # OpenTelemetry notes only what is an `Exception`
                span.set_status(trace.StatusCode.ERROR, "cancelled")
                raise

    def _links_to(self, traceparent: str) -> list[trace.Link]:
        found = self._propagator.extract({"traceparent": traceparent}, context.Context())
        linked = trace.get_current_span(found).get_span_context()
        return [trace.Link(linked)] if linked.is_valid else []


def traceparent_of(span: trace.Span) -> str:
    """Return a span as others continue or link it; empty if it has no ids."""
    ids = span.get_span_context()
    if not ids.is_valid:
        return ""
    return f"00-{ids.trace_id:032x}-{ids.span_id:016x}-{ids.trace_flags:02x}"


def _attributes_of(name: str, kind: str) -> dict[str, Any]:
    return {
        "messaging.system": SYSTEM,
        "messaging.operation.name": name,
        "messaging.operation.type": kind,
    }


def _attributes_of_job(name: str, task_id: str) -> dict[str, Any]:
    return {"messaging.destination.name": name, "messaging.message.id": task_id}


def _span_name(operation: str, channels: set[Any]) -> str:
    """Return a name of few different values, as conventions demand; a channel has too many."""
    namespaces = {namespace_of(each) for each in channels}
    return f"{operation} {namespaces.pop()}".rstrip() if len(namespaces) == 1 else operation


def _stamp_all(publications: Sequence[Publication], span: trace.Span) -> list[Publication]:
    traceparent = traceparent_of(span)
    return [stamp(each, traceparent) for each in publications]


def _note_receipt(span: trace.Span, receipt: Receipt) -> Receipt:
    span.set_attribute("messaging.message.id", f"{receipt.epoch}-{receipt.offset}")
    return receipt


def _note_answers(span: trace.Span, answers: Answers) -> Answers:
    errors = [each for each in answers if isinstance(each, RealtimeError)]
    if errors:
        span.set_attribute("error.type", errors[0].code)
        text = f"{len(errors)} of {len(answers)} were not published"
        span.set_status(trace.StatusCode.ERROR, text)
    return answers
