"""A trace through the service: from a request, through the queue, to the receiver of a webhook."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.collector import Collector, collecting
from tests.support.command import Command
from tests.support.database import migrate
from tests.support.eventually import eventually_sync
from tests.support.receivers import Hooks, hook_server
from tests.support.redis_server import RedisServer
from tests.support.service import DEPLOYED, DEPLOYMENT, KEY, Service

pytestmark = pytest.mark.otel

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as running:
        yield running


@pytest.fixture
def hooks() -> Iterator[Hooks]:
    with hook_server() as server:
        yield server


@pytest.fixture
def service(
    collector: Collector,
    hooks: Hooks,
    own_redis: RedisServer,
    serve: Callable[..., Service],
    tmp_path: Path,
) -> Iterator[Service]:
    shop = {
        "use": "webhook",
        "url": f"http://127.0.0.1:{hooks.port}/",
        "secret": "a secret of the tests, long enough",
        "allow_private": True,
    }
    env = {
        "DATABASE_URL": migrate(f"sqlite:///{tmp_path}/db.sqlite3"),
        "NOTIFIER_FALLBACKS": json.dumps({"shop": shop}),
        "NOTIFIER_NAMESPACES": json.dumps({"orders": {"fallback": "shop"}}),
        "NOTIFIER_TRACING": "1",
        **collector.environ,
    }
    running = serve(own_redis.url, DEPLOYED, **env)
    worker = Command("runfallback", **{**DEPLOYMENT, **env, "REDIS_URL": own_redis.url})
    yield running
    assert worker.interrupt() == 0
    worker.stop()


def test_a_request_is_traced_to_the_receiver_of_a_webhook(
    service: Service, collector: Collector, hooks: Hooks
) -> None:
    headers = {**KEY, "traceparent": f"00-{TRACE_ID}-{SPAN_ID}-01"}
    body = {"channel": "orders:7", "data": {"n": 1}}
    answer = httpx.post(f"{service.http}/api/publish", json=body, headers=headers, timeout=60)
    assert answer.json()["result"]["queued"] is True
    [publish] = eventually_sync(lambda: collector.named("publish orders"))
    [attempt] = eventually_sync(lambda: collector.named("process shop"))
    assert publish.trace_id.hex() == TRACE_ID
    assert publish.parent_span_id.hex() == SPAN_ID
    assert attempt.parent_span_id == b""
    [link] = attempt.links
    assert (link.trace_id, link.span_id) == (publish.trace_id, publish.span_id)
    [post] = hooks.got
    ids = f"00-{attempt.trace_id.hex()}-{attempt.span_id.hex()}-"
    assert post.headers["traceparent"].startswith(ids)
    assert collector.services == {"notifier"}
