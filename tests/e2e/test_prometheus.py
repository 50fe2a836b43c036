"""A real Prometheus with the rules and the dashboard of `deploy/`, while Redis is killed."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.client import Client
from tests.support.eventually import eventually, eventually_sync
from tests.support.losing import publish_while_cut
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer
from tests.support.scrape import scrape
from tests.support.service import DEPLOYED, KEY, ROOT, Service

pytestmark = pytest.mark.prometheus

RULES = ROOT / "deploy" / "prometheus" / "rules.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "notifier.json"
CHANNEL = "chat:watched"  # not in the namespace of the probe
CLIENTS = 6
LOST = 3
CONFIGURATION = """
global: {{scrape_interval: 500ms, scrape_timeout: 400ms, evaluation_interval: 500ms}}
rule_files: [{rules}]
scrape_configs:
  - job_name: notifier
    static_configs: [{{targets: ["{service}"]}}]
  - job_name: probe
    static_configs: [{{targets: ["{probe}"]}}]
"""


class Watched:
    """A service, a probe of it, and a Prometheus that scrapes both."""

    def __init__(self, folder: Path) -> None:
        self.redis = RedisServer().start()
        service, probe, own = (f"127.0.0.1:{free_port()}" for _ in range(3))
        self.metrics = f"http://{service}/metrics"
        self.api = f"http://{own}/api/v1"
        self.service = Service(
            self.redis.url, DEPLOYED, WEB_CONCURRENCY="2", HTTPS="0", METRICS_ADDRESS=service
        ).start()
        environ = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "tests.settings",
            "TEST_REDIS_URL": self.redis.url,
            "REALTIME_PROBE_KEY": KEY["X-API-Key"],
        }
        options = ("--url", self.service.http, "--every", "0.2", "--metrics-address", probe)
        self._processes = [
            subprocess.Popen(
                [sys.executable, "manage.py", "probe", *options],
                cwd=ROOT, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )
        ]  # fmt: skip
        configuration = folder / "prometheus.yml"
        configuration.write_text(
            CONFIGURATION.format(rules=RULES, service=service, probe=probe), encoding="utf-8"
        )
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self._processes.append(
                subprocess.Popen(
                    [
                        "prometheus",
                        f"--config.file={configuration}",
                        f"--storage.tsdb.path={folder / 'data'}",
                        f"--web.listen-address={own}",
                    ],
                    stdout=log, stderr=log,
                )
            )  # fmt: skip
        try:
            eventually_sync(lambda: self.values("realtime_probe_received_total > 0"), seconds=60)
        except BaseException:
            self.stop()
            raise

    def values(self, query: str) -> list[dict[str, Any]]:
        """Return the series that a query finds; none before Prometheus answers."""
        try:
            response = httpx.get(f"{self.api}/query", params={"query": query})
        except httpx.TransportError:
            return []
        if response.status_code == 503:  # it is still starting
            return []
        assert response.status_code == 200, response.text
        result: list[dict[str, Any]] = response.json().get("data", {}).get("result", [])
        return result

    def stop(self) -> None:
        for process in self._processes:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)
        self.service.stop()
        self.redis.stop()


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    found = Watched(tmp_path_factory.mktemp("prometheus"))
    yield found
    found.stop()


def test_promtool_accepts_the_rules():
    found = subprocess.run(["promtool", "check", "rules", str(RULES)], capture_output=True)
    assert found.returncode == 0, found.stderr


class Heard:
    """What some clients have received, and what they were told they missed."""

    def __init__(self) -> None:
        self.publications = self.open_gaps = self.missed = 0

    async def read(self, client: Client) -> None:
        while True:
            push = (await client.next()).get("push", {})
            self.publications += "pub" in push
            if gap := push.get("gap"):
                self.open_gaps += gap["to"] is None
                self.missed += 0 if gap["to"] is None else gap["to"] - gap["from"] + 1


async def test_a_killed_redis_fires_the_alert_of_losses_and_not_that_of_silent_ones(
    watched: Watched,
) -> None:
    """The sums of the metrics are exactly what the clients have received and were told."""
    clients = [await Client.open(watched.service.ws) for _ in range(CLIENTS)]
    for client in clients:
        await client.subscribe(CHANNEL)
    heard = Heard()
    reading = [asyncio.create_task(heard.read(client)) for client in clients]

    async def publish(count: int) -> None:
        due = heard.publications + count * CLIENTS
        for number in range(count):
            await asyncio.to_thread(watched.service.publish, CHANNEL, number)
        await eventually(lambda: heard.publications == due, seconds=30)

    await publish(10)
    watched.redis.kill()
    watched.redis.start()
    await eventually(lambda: heard.open_gaps == CLIENTS, seconds=30)  # the epoch has ended
    await publish(5)
    publish_while_cut(watched.redis, CHANNEL, LOST)
    await eventually(lambda: heard.missed == LOST * CLIENTS, seconds=30)
    await publish(1)

    scraped = scrape(watched.metrics)
    labels = {"namespace": "chat", "reason": "broker"}
    assert scraped.value("realtime_deliveries_total", namespace="chat") == heard.publications
    assert scraped.value("realtime_missed_publications_total", **labels) == heard.missed
    assert scraped.value("realtime_gaps_total", **labels, end="open") == heard.open_gaps
    assert scraped.value("realtime_outages_total") >= 2

    def is_firing() -> bool:
        return bool(watched.values('ALERTS{alertname="RealtimePublicationsLost"} == 1'))

    await eventually(is_firing, seconds=60)
    assert watched.values("realtime_probe_received_total > 0")
    assert not watched.values('ALERTS{alertname="RealtimeSilentLoss"}')
    for task in reading:
        task.cancel()
    for client in clients:
        await client.close()


def expressions() -> list[str]:
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    found = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    return [each.replace("$__rate_interval", "30s").replace("$job", ".*") for each in found]


# Nothing of these kinds has happened here, and their labels are not known in advance.
MAY_BE_EMPTY = re.compile("refused_tokens|refused_requests|limits_reached")


@pytest.mark.parametrize("expression", expressions())
def test_each_query_of_the_dashboard_returns_data(watched, expression):
    if MAY_BE_EMPTY.search(expression):
        response = httpx.get(f"{watched.api}/query", params={"query": expression})
        assert response.json()["status"] == "success"
    else:
        eventually_sync(lambda: watched.values(expression), seconds=30)
