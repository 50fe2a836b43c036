"""Tracing with the SDK of OpenTelemetry: the spans, and what others receive of them."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from celery import Celery

import realtime
from realtime import wiring
from realtime.contrib.calls import encode_call, trace_of
from realtime.contrib.celery import LiveTask, celery_app
from realtime.core.envelope import Envelope, decode_envelope
from realtime.core.publication import Publication
from realtime.errors import BrokerUnavailable, GiveUp
from realtime.fallbacks.registry import handlers
from realtime.fallbacks.threads import Threads
from realtime.wiring.brokers import async_broker
from tests.support.eventually import eventually
from tests.support.receivers import hook_server
from tests.support.rims import RIMS, Rim
from tests.support.spans import exporter, traceparent_of
from tests.support.subscription_reader import SubscriptionReader
from tests.support.working import Got, working

pytestmark = pytest.mark.otel

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SENT = f"00-{TRACE_ID}-{SPAN_ID}-01"
HOOK_SECRET = "a secret of the tests, long enough"


@pytest.fixture
def spans(settings: Any) -> Iterator[Callable[[], list[Any]]]:
    """Trace, with the broker inside the process; return what returns the spans that have ended."""
    settings.REALTIME_TRACING = True
    settings.REALTIME_REDIS_URL = "memory://"
    settings.REALTIME_REDIS_PREFIX = f"test-{secrets.token_hex(4)}"
    exporter().clear()
    yield lambda: list(exporter().get_finished_spans())
    exporter().clear()


@pytest.fixture
async def envelopes(spans: Any) -> AsyncIterator[Callable[[], list[Envelope]]]:
    """Return the envelopes that reached a node on the channels news and told:7."""
    broker = async_broker()
    reader = SubscriptionReader(await broker.subscription())
    await reader.subscription.send(["news", "told:7"], [])
    await eventually(lambda: len(reader.waiting) == 2)
    yield lambda: [decode_envelope(each.raw) for each in reader.waiting[2:]]
    await broker.aclose()
    await wiring.aclose()


async def test_a_publish_has_a_span_whose_ids_travel_in_the_envelope(spans, envelopes) -> None:
    receipt = await realtime.apublish("told:7", 1)
    [span] = spans()
    assert (span.name, span.kind.name, span.parent) == ("publish told", "PRODUCER", None)
    assert dict(span.attributes) == {
        "messaging.system": "django_realtime_notifier",
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "messaging.destination.name": "told:7",
        "messaging.message.id": f"{receipt.epoch}-{receipt.offset}",
    }
    await eventually(envelopes)
    [envelope] = envelopes()
    assert envelope.trace == traceparent_of(span.context)
    assert envelope.sent_ms > 1_700_000_000_000
    assert envelope.body == '{"data":1}'


async def test_clients_receive_neither_time_nor_trace(spans, join) -> None:
    member = await join("public:news")
    receipt = await realtime.apublish("public:news", 1)
    [pub] = await eventually(lambda: member.pushes("pub"))
    assert pub.pop("channel") == "public:news"
    assert set(pub) <= {"data", "offset", "tags"}
    assert (pub["data"], pub["offset"], pub.get("tags", {})) == (1, receipt.offset, {})
    assert len(spans()) == 1


async def test_what_a_client_publishes_has_a_span(spans, envelopes) -> None:
    await wiring.node().publisher.publish(Publication.of("news", 1))
    [span] = spans()
    await eventually(envelopes)
    assert [each.trace for each in envelopes()] == [traceparent_of(span.context)]


async def test_publishing_from_code_continues_the_current_span(spans, envelopes) -> None:
    from opentelemetry import trace

    with trace.get_tracer("host").start_as_current_span("view") as outer:
        await realtime.apublish("news", 1)
        await asyncio.to_thread(realtime.publish, "news", 2)
    first, second, _ = spans()
    parent = outer.get_span_context().span_id
    assert {first.parent.span_id, second.parent.span_id} == {parent}


@pytest.mark.parametrize("kind", RIMS)
async def test_a_request_is_continued_in_its_trace(kind, spans, envelopes) -> None:
    rim = Rim(kind)
    (await rim.post("publish", {"channel": "news", "data": 1}, traceparent=SENT)).result  # noqa: B018
    [span] = spans()
    assert f"{span.context.trace_id:032x}" == TRACE_ID
    assert f"{span.parent.span_id:016x}" == SPAN_ID
    await eventually(envelopes)
    [envelope] = envelopes()
    assert envelope.trace == traceparent_of(span.context) != SENT


HOSTILE = {
    "no traceparent": "hello",
    "two of them": f"{SENT},{SENT}",
    "a longer one": f"{SENT}-{'x' * 4000}",
    "no ids": f"00-{'0' * 32}-{'0' * 16}-01",
    "another version": f"01{SENT[2:]}",
    "bytes": b"00-\xff\xfe",
}


@pytest.mark.parametrize("kind", RIMS)
@pytest.mark.parametrize("header", HOSTILE.values(), ids=HOSTILE)
async def test_a_strangers_header_is_ignored(kind, header, spans, envelopes) -> None:
    rim = Rim(kind)
    answer = await rim.post("publish", {"channel": "news", "data": 1}, traceparent=header)
    assert answer.result["offset"] == 1
    [span] = spans()
    assert span.parent is None


@pytest.mark.parametrize("kind", RIMS)
async def test_a_batch_has_one_span(kind, spans, envelopes) -> None:
    rim = Rim(kind)
    fields = {"channels": ["news", "told:7"], "data": 1}
    (await rim.post("broadcast", fields, traceparent=SENT)).result  # noqa: B018
    [span] = spans()
    assert span.name == "publish"
    assert span.attributes["messaging.batch.message_count"] == 2
    assert "messaging.destination.name" not in span.attributes
    await eventually(lambda: len(envelopes()) == 2)
    assert {each.trace for each in envelopes()} == {traceparent_of(span.context)}


async def test_a_request_of_an_instrumented_server_is_continued_in_its_span(
    spans, envelopes
) -> None:
    """The server's own span has the header as its parent already."""
    from opentelemetry import trace

    with trace.get_tracer("server").start_as_current_span("POST /api/publish") as outer:
        rim = Rim("endpoint")
        await rim.post("publish", {"channel": "news", "data": 1}, traceparent=SENT)
    [span] = [each for each in spans() if each.name.startswith("publish")]
    assert span.parent.span_id == outer.get_span_context().span_id


async def test_a_publish_that_fails_says_so(spans, settings) -> None:
    settings.REALTIME_REDIS_URL = "redis://127.0.0.1:1"
    with pytest.raises(BrokerUnavailable):
        await realtime.apublish("news", 1)
    await wiring.aclose()
    [span] = spans()
    assert span.status.status_code.name == "ERROR"


async def test_items_that_fail_are_counted(spans) -> None:
    made = [Publication.of("news", n, idempotency_key="k") for n in (1, 2, 3)]
    answers = await asyncio.to_thread(wiring.publish_many_sync, made)
    assert len(answers) == 3
    [span] = spans()
    assert span.status.description == "2 of 3 were not published"
    assert span.attributes["error.type"] == "idempotency_conflict"


async def test_an_attempt_is_linked_to_the_publish_and_not_its_child(spans) -> None:
    got, count = Got(), []

    async def handle(queued: Any) -> None:
        count.append(queued)
        if len(count) == 1:
            raise GiveUp("no such number")
        await got(queued)

    queue = wiring.queue()
    async with working(queue, wiring.trace_handlers({"email": handle})):
        await realtime.apublish("news", 1, fallback="email")
        await eventually(lambda: len(count) == 1)
        await realtime.apublish("news", 2, fallback="email")
        await eventually(lambda: len(got) == 1)
        await eventually(lambda: len(spans()) == 4)
    first, failed, second, done = sorted(spans(), key=lambda span: span.start_time)
    await queue.aclose()
    await wiring.aclose()
    for sent, attempt in ((first, failed), (second, done)):
        assert (attempt.name, attempt.kind.name) == ("process email", "CONSUMER")
        assert attempt.parent is None
        assert attempt.context.trace_id != sent.context.trace_id
        [link] = attempt.links
        assert link.context.span_id == sent.context.span_id
        assert attempt.attributes["messaging.message.id"] == sent.attributes["messaging.message.id"]
    assert failed.status.status_code.name == "ERROR"
    assert got[0].trace == traceparent_of(done.context)


async def test_a_webhook_continues_the_attempt(spans, settings) -> None:
    with hook_server() as hooks:
        settings.REALTIME_FALLBACKS = {
            "hook": {
                "use": "webhook",
                "url": f"http://127.0.0.1:{hooks.port}/",
                "secret": HOOK_SECRET,
                "allow_private": True,
            }
        }
        threads = Threads()
        queue = wiring.queue()
        known = wiring.trace_handlers(handlers(wiring.fallbacks(), threads))
        async with working(queue, known, threads=threads):
            await realtime.apublish("news", 1, fallback="hook")
            await eventually(lambda: len(spans()) == 2)
        await queue.aclose()
    await wiring.aclose()
    _, attempt = spans()
    assert hooks.got[0].headers["traceparent"] == traceparent_of(attempt.context)


async def test_a_handler_that_is_too_slow_is_noted(spans) -> None:
    async def hang(queued: Any) -> None:
        await asyncio.Event().wait()

    queue = wiring.queue()
    async with working(queue, wiring.trace_handlers({"email": hang}), handler_seconds=0.05):
        await realtime.apublish("news", 1, fallback="email")
        await eventually(lambda: len(spans()) == 2)
    await queue.aclose()
    await wiring.aclose()
    attempt = spans()[-1]
    assert (attempt.status.status_code.name, attempt.status.description) == ("ERROR", "cancelled")


@pytest.fixture
def jobs(spans: Any, wired: str) -> Celery:
    """A Celery app with a queue in this process; the records of jobs are in a Redis."""
    return celery_app(
        "tests", broker_url="memory://", task_ignore_result=True, task_default_queue=wired
    )


def sent_headers(app: Celery) -> dict[str, Any]:
    """Return the headers of the next message, as a worker receives them."""
    with app.connection_for_read() as connection:
        queue = connection.SimpleQueue(app.conf.task_default_queue)
        headers: dict[str, Any] = queue.get(block=False).headers
        queue.close()
    return headers


def test_a_run_of_a_job_is_linked_to_where_it_was_sent(spans, jobs) -> None:
    from opentelemetry import trace

    seen: list[Any] = []

    @jobs.task(bind=True, base=LiveTask, shared=False, name="shop.rows")
    def work(self: Any) -> None:
        seen.append(trace.get_current_span().get_span_context().span_id)

    with trace.get_tracer("host").start_as_current_span("view") as view:
        task_id = work.start(live_user="42")
    headers = sent_headers(jobs)
    work.apply(task_id=task_id, headers=headers)
    [sent] = [each for each in spans() if each.name == "send shop.rows"]
    [run] = [each for each in spans() if each.name == "process shop.rows"]
    assert sent.parent.span_id == view.get_span_context().span_id
    assert headers["traceparent"] == traceparent_of(sent.context)
    assert headers["live_user"] == "42"
    assert run.parent is None
    assert [link.context.span_id for link in run.links] == [sent.context.span_id]
    assert seen == [run.context.span_id]
    assert run.attributes["messaging.message.id"] == task_id
    assert run.status.status_code.name == "UNSET"


def test_a_retry_is_no_error_and_a_failure_is_one(spans, jobs) -> None:
    @jobs.task(bind=True, base=LiveTask, shared=False, name="shop.rows", max_retries=1)
    def work(self: Any) -> None:
        raise self.retry(countdown=0)

    work.apply(task_id="job-1")
    codes = [each.status.status_code.name for each in spans() if each.name == "process shop.rows"]
    assert sorted(codes) == ["ERROR", "UNSET"]


def test_a_job_under_an_instrumented_celery_has_no_second_span(spans, jobs) -> None:
    from opentelemetry import trace

    @jobs.task(bind=True, base=LiveTask, shared=False, name="shop.rows")
    def work(self: Any) -> None:
        pass

    with trace.get_tracer("celery").start_as_current_span("run/shop.rows"):
        work.apply(task_id="job-1")
    assert [each for each in spans() if each.name == "process shop.rows"] == []


def test_a_job_that_is_sent_again_keeps_its_trace() -> None:
    call = json.loads(encode_call("shop.rows", (), {}, "42", SENT))
    assert call["headers"] == {"live_user": "42", "traceparent": SENT}
    assert trace_of({"headers": call["headers"]}) == SENT
    assert trace_of({"traceparent": "hello"}) == trace_of(None) == ""
