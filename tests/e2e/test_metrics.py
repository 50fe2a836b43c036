"""`GET /metrics`: all workers of a launcher in one exposition, for those who may read it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.client import Client
from tests.support.eventually import eventually, eventually_sync
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer
from tests.support.scrape import OPENMETRICS, Scraped, scrape
from tests.support.service import DEPLOYED, Service, needs_proc

WORKERS = 2
KEY = "key-of-the-scraper"


class Measured:
    """A service with two workers, and the address of its metrics."""

    def __init__(self, redis_url: str) -> None:
        port = free_port()
        self.address = f"http://127.0.0.1:{port}/metrics"
        self.service = Service(
            redis_url,
            DEPLOYED,
            WEB_CONCURRENCY=str(WORKERS),
            HTTPS="0",
            METRICS_ADDRESS=f"127.0.0.1:{port}",
            NOTIFIER_METRICS_KEY=KEY,
        ).start()
        eventually_sync(lambda: self.scrape().value("realtime_nodes_live") == WORKERS)

    def scrape(self, accept: str = "") -> Scraped:
        return scrape(self.address, accept)


@pytest.fixture(scope="module")
def measured(redis_server: RedisServer) -> Iterator[Measured]:
    found = Measured(redis_server.url)
    yield found
    found.service.stop()


def test_both_formats_are_valid_and_say_the_same(measured):
    measured.service.publish("public:formats", 1)
    text, openmetrics = measured.scrape(), measured.scrape(OPENMETRICS)
    for scraped in (text, openmetrics):
        assert scraped.value("realtime_workers") == WORKERS
        assert scraped.value("realtime_publish_seconds_count", method="http") >= 1
    assert text.families["realtime_publishes"].type == "counter"
    assert {f.name for f in text.samples} == {f.name for f in openmetrics.samples}


async def test_deliveries_of_all_workers_are_added_up(measured: Measured) -> None:
    """Clients land on either worker; which one is scraped makes no difference."""
    before = measured.scrape()
    clients = [await Client.open(measured.service.ws) for _ in range(8)]
    for client in clients:
        await client.subscribe("public:sums")
    for number in range(5):
        measured.service.publish("public:sums", number)
    for client in clients:
        for _ in range(5):
            await client.next()
    after = measured.scrape()

    def grown(name: str, **labels: str) -> float:
        return after.value(name, **labels) - before.value(name, **labels)

    assert grown("realtime_publishes_total", namespace="public", outcome="published") == 5
    assert grown("realtime_deliveries_total", namespace="public") == 5 * len(clients)
    seconds = "realtime_delivery_seconds"
    nodes = grown(f"{seconds}_count", namespace="public") / 5
    assert 1 <= nodes <= WORKERS  # each publication once for each node with a subscriber
    assert grown(f"{seconds}_bucket", namespace="public", le="5.0") == 5 * nodes
    assert after.value("realtime_connections", transport="websocket") == len(clients)
    assert after.value("realtime_subscriptions", namespace="public") == len(clients)
    for client in clients:
        await client.close()
    await eventually(lambda: measured.scrape().value("realtime_subscriptions") == 0)


async def test_a_gap_after_a_reconnect_is_counted_as_missed(measured: Measured) -> None:
    first = measured.service.publish("public:since", 0)
    for number in range(3):
        measured.service.publish("public:since", number)
    client = await Client.open(measured.service.ws)
    since = {"recover": True, "epoch": first["epoch"], "offset": first["offset"]}
    before = measured.scrape()
    await client.ask(subscribe={"channel": "public:since", **since})
    after = measured.scrape()
    name = "realtime_missed_publications_total"
    labels = {"namespace": "public", "reason": "reconnect"}
    assert after.value(name, **labels) - before.value(name, **labels) == 3
    await client.close()


def workers_of(service: Service) -> list[int]:
    children = Path(f"/proc/{service.pid}/task/{service.pid}/children").read_text().split()
    named = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children}
    return [pid for pid, command in named.items() if b"notifier.server" in command]


@needs_proc
def test_counters_do_not_fall_when_a_worker_is_killed(measured):
    for number in range(4):
        measured.service.publish("public:kill", number)
    before = measured.scrape()
    for pid in workers_of(measured.service):
        os.kill(pid, signal.SIGKILL)
    starts = before.value("realtime_worker_starts_total") + WORKERS
    eventually_sync(lambda: measured.scrape().value("realtime_worker_starts_total") == starts)
    eventually_sync(lambda: measured.scrape().value("realtime_nodes_live") == WORKERS)
    after = measured.scrape()
    name = "realtime_publishes_total"
    assert after.value(name) == before.value(name)
    assert after.value("realtime_workers") == WORKERS


def test_a_frozen_worker_does_not_keep_the_metrics_of_the_others(measured):
    [frozen, *_] = workers_of(measured.service)
    before = measured.scrape()
    os.kill(frozen, signal.SIGSTOP)
    try:
        after = measured.scrape()
    finally:
        os.kill(frozen, signal.SIGCONT)
    name = "realtime_publishes_total"
    assert after.value(name) == before.value(name)
    assert after.value("realtime_workers") == WORKERS


def test_the_port_of_the_clients_wants_the_key(measured):
    url = f"{measured.service.http}/metrics"
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {KEY}"}):
        response = httpx.get(url, headers=headers)
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == 'Bearer realm="metrics"'
        assert "realtime_" not in response.text
    with_key = scrape(url, headers={"Authorization": f"Bearer {KEY}"})
    assert with_key.value("realtime_workers") == WORKERS


def test_the_address_of_the_metrics_has_nothing_else(measured):
    base = measured.address.removesuffix("/metrics")
    assert httpx.get(f"{base}/").status_code == 404
    assert httpx.post(measured.address, content=b"x").status_code == 405
    assert httpx.head(measured.address).status_code == 200


def test_without_a_key_there_are_no_metrics(serve: Callable[..., Service], redis_server: Any):
    service = serve(redis_server.url, DEPLOYED, HTTPS="0")
    assert httpx.get(f"{service.http}/metrics").status_code == 404
