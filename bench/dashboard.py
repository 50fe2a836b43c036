"""Draw the dashboard of deploy/grafana from a real Prometheus, while Redis is killed.

python -m bench.dashboard

Needs Prometheus, and matplotlib (the group `plots`). Takes three minutes: clients listen, some read
slowly, publishers post, and after a minute Redis is killed for some seconds. The picture shows what
each query of the dashboard has returned; Grafana draws the same numbers more beautifully.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import AsyncExitStack, ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import matplotlib
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.support.eventually import eventually_sync
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer
from tests.support.service import DEPLOYED, KEY, Service

matplotlib.use("agg")
from matplotlib import pyplot
from matplotlib.dates import AutoDateLocator, DateFormatter, num2date

ROOT = Path(__file__).resolve().parents[1]
BOARD = json.loads((ROOT / "deploy/grafana/notifier.json").read_text(encoding="utf-8"))
RULES = ROOT / "deploy/prometheus/rules.yml"
PICTURE = ROOT / "docs" / "plots" / "dashboard.png"
RUN_SECONDS, KILL_AFTER_SECONDS, AWAY_SECONDS = 180.0, 80.0, 5.0
CLIENTS, CHANNELS, SLOW = 60, 6, 3
PER_SECOND = 40
STEP_SECONDS = 2
COLUMNS = 24
"""Of Grafana's grid."""


def configuration(service: str, probe: str) -> str:
    """Return the configuration of a Prometheus that scrapes a service and its probe."""
    jobs = "".join(
        f'  - job_name: {name}\n    static_configs: [{{targets: ["{address}"]}}]\n'
        for name, address in (("notifier", service), ("probe", probe))
    )
    times = "scrape_interval: 1s, scrape_timeout: 900ms, evaluation_interval: 1s"
    return f"global: {{{times}}}\nrule_files: [{RULES}]\nscrape_configs:\n{jobs}"


async def listen(url: str, channel: str, *, slowly: bool) -> None:
    """Stay subscribed to a channel, through all breaks; or read too slowly to follow."""
    while True:
        with suppress(OSError, ConnectionClosed, TimeoutError):
            async with connect(url, compression=None, max_queue=1 if slowly else 16) as socket:
                await socket.send('{"id":1,"connect":{}}')
                await socket.send(json.dumps({"id": 2, "subscribe": {"channel": channel}}))
                async for frame in socket:
                    if "{}" in str(frame).split("\n"):
                        await socket.send("{}")
                    if slowly:
                        await asyncio.sleep(1)
        await asyncio.sleep(1)


async def publish(url: str) -> None:
    """Post at a steady rate, whatever the answers are; one channel gets large publications."""
    async with httpx.AsyncClient(headers=KEY, timeout=5) as http:
        number = 0
        while True:
            number += 1
            channel = f"chat:{number % CHANNELS}"
            size = 60_000 if number % CHANNELS == 0 else 100
            body = {"channel": channel, "data": [number, "x" * size]}
            with suppress(httpx.HTTPError):
                await http.post(f"{url}/api/publish", json=body)
            await asyncio.sleep(1 / PER_SECOND)


async def load(service: Service, redis: RedisServer) -> None:
    """Run the load, with the fault in the middle."""
    work = [
        asyncio.create_task(listen(service.ws, f"chat:{n % CHANNELS}", slowly=n < SLOW * CHANNELS))
        for n in range(CLIENTS)
    ]
    work.append(asyncio.create_task(publish(service.http)))
    async with AsyncExitStack() as stack:
        for task in work:
            stack.callback(task.cancel)
        await asyncio.sleep(KILL_AFTER_SECONDS)
        redis.kill()
        await asyncio.sleep(AWAY_SECONDS)
        await asyncio.to_thread(redis.start)
        await asyncio.sleep(RUN_SECONDS - KILL_AFTER_SECONDS - AWAY_SECONDS)


def series(api: str, expression: str, began: float, ended: float) -> list[dict[str, Any]]:
    """Return what a query of the dashboard has found over the time of the run."""
    query = expression.replace("$__rate_interval", "10s").replace("$job", ".*")
    for window in ("[5m]", "[1h]"):  # the run is shorter
        query = query.replace(window, "[30s]")
    params: dict[str, Any] = {"query": query, "start": began, "end": ended, "step": STEP_SECONDS}
    response = httpx.get(f"{api}/query_range", params=params, timeout=30)
    response.raise_for_status()
    found: list[dict[str, Any]] = response.json()["data"]["result"]
    return found


def name_series(legend: str, labels: dict[str, str]) -> str:
    """Return the text of a legend with its labels filled in."""
    for label, value in labels.items():
        legend = legend.replace("{{" + label + "}}", value or "(none)")
    return legend


def draw(api: str, began: float, ended: float) -> None:
    """Draw all panels at their places in the grid of the dashboard."""
    panels = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    figure = pyplot.figure(figsize=(18, rows * 0.45), facecolor="white")
    grid = figure.add_gridspec(rows, COLUMNS, hspace=1, wspace=3)
    for panel in panels:
        at = panel["gridPos"]
        lower, right = at["y"] + at["h"], at["x"] + at["w"]
        axes = figure.add_subplot(grid[at["y"] : lower - 2, at["x"] : right])  # room for a title
        axes.set_title(panel["title"], fontsize=10, loc="left")
        found = [
            (name_series(target["legendFormat"], each["metric"]), each["values"])
            for target in panel["targets"]
            for each in series(api, target["expr"], began, ended)
        ]
        if panel["type"] == "stat":
            last = f"{float(found[0][1][-1][1]):.4g}" if found else "no data"
            axes.axis("off")
            axes.text(0, 0.2, last, fontsize=24)
            continue
        for name, points in found:
            times = [num2date(float(at) / 86400) for at, _ in points]
            axes.plot(times, [float(value) for _, value in points], label=name, linewidth=1)
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(AutoDateLocator(maxticks=6))
        axes.xaxis.set_major_formatter(DateFormatter("%H:%M:%S"))
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
        if found:
            axes.legend(fontsize=7, frameon=False, loc="best")
    figure.savefig(PICTURE, dpi=60, bbox_inches="tight")


def main() -> None:
    """Run the load under a Prometheus, then draw."""
    service_at, probe_at, own = (f"127.0.0.1:{free_port()}" for _ in range(3))
    redis = RedisServer().start()
    with ExitStack() as stack:
        stack.callback(redis.stop)
        service = Service(
            redis.url, DEPLOYED, WEB_CONCURRENCY="2", HTTPS="0", METRICS_ADDRESS=service_at
        ).start()
        stack.callback(service.stop)
        environ = os.environ | {
            "DJANGO_SETTINGS_MODULE": "tests.settings",
            "TEST_REDIS_URL": redis.url,
            "REALTIME_PROBE_KEY": KEY["X-API-Key"],
        }
        options = ("--url", service.http, "--every", "0.5", "--metrics-address", probe_at)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        file = folder / "prometheus.yml"
        file.write_text(configuration(service_at, probe_at), encoding="utf-8")
        for command in (
            [sys.executable, "manage.py", "probe", *options],
            [
                "prometheus",
                f"--config.file={file}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={own}",
            ],
        ):
            process = subprocess.Popen(
                command, cwd=ROOT, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            stack.callback(process.wait)
            stack.callback(process.terminate)
        api = f"http://{own}/api/v1"
        eventually_sync(lambda: is_ready(own), seconds=60)
        began = time.time()
        asyncio.run(load(service, redis))
        draw(api, began, time.time())
    print(f"wrote {PICTURE}")


def is_ready(address: str) -> bool:
    """Tell whether Prometheus answers."""
    with suppress(httpx.HTTPError):
        return httpx.get(f"http://{address}/-/ready").status_code == 200
    return False


if __name__ == "__main__":
    main()
