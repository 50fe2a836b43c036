"""`manage.py probe`: sees a healthy service, a loss that is told, and one that is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from websockets.sync.server import ServerConnection
from websockets.sync.server import serve as serve_websocket

from tests.support.eventually import eventually_sync
from tests.support.losing import publish_while_cut
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer
from tests.support.scrape import scrape
from tests.support.service import DEPLOYED, KEY, ROOT, Service

CHANNEL = "public:probed"


def probe(*arguments: str, redis_url: str = "redis://127.0.0.1:1/0") -> subprocess.Popen[str]:
    env = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "TEST_REDIS_URL": redis_url,
        "REALTIME_PROBE_KEY": KEY["X-API-Key"],
    }
    return subprocess.Popen(
        [sys.executable, "manage.py", "probe", "--channel", CHANNEL, *arguments],
        cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def service(redis: RedisServer) -> Iterator[Service]:
    started = Service(redis.url, DEPLOYED, WEB_CONCURRENCY="2", HTTPS="0").start()
    yield started
    started.stop()


def test_a_healthy_service_loses_nothing(service):
    running = probe("--url", service.http, "--every", "0.05", "--seconds", "2")
    output, _ = running.communicate(timeout=60)
    assert running.returncode == 0, output
    assert "2 listeners are live" in output
    assert "silently lost 0" in output


def test_a_loss_that_is_told_is_counted_and_is_not_silent(service, redis):
    port = free_port()
    address = f"127.0.0.1:{port}"
    running = probe("--url", service.http, "--every", "0.05", "--metrics-address", address)
    try:
        url = f"http://{address}/metrics"

        def value(name: str) -> float:
            try:
                return scrape(url).value(f"realtime_probe_{name}")
            except httpx.TransportError:  # not yet
                return 0.0

        eventually_sync(lambda: value("received_total") > 4)
        publish_while_cut(redis, CHANNEL, 3)
        eventually_sync(lambda: value("missed_total") >= 2 * 3)
        received = value("received_total")
        eventually_sync(lambda: value("received_total") > received)
        assert value("silent_losses_total") == 0
        assert value("listeners_live") == value("listeners") == 2
        assert value("seconds_count") > 0
    finally:
        running.terminate()
        running.communicate(timeout=60)


class LyingService:
    """A service that answers as ours does, and never delivers the third publication."""

    def __init__(self) -> None:
        self.offset = 0
        self.sockets: list[ServerConnection] = []

    def publish(self, data: Any) -> dict[str, Any]:
        self.offset += 1
        if self.offset != 3:
            push = {"channel": CHANNEL, "pub": {"data": data, "offset": self.offset}}
            for socket in self.sockets:
                socket.send(json.dumps({"push": push}))
        return {"result": {"epoch": "e" * 16, "offset": self.offset, "nodes": 1}}

    def listen(self, socket: ServerConnection) -> None:
        for frame in socket:
            for line in str(frame).split("\n"):
                command = json.loads(line)
                if "connect" in command:
                    socket.send('{"id":1,"connect":{"ping":25}}\n{"push":{"state":{"live":true}}}')
                elif "subscribe" in command:
                    at = {"epoch": "e" * 16, "offset": self.offset}
                    socket.send(json.dumps({"id": command["id"], "subscribe": at}))
                    self.sockets.append(socket)


@contextmanager
def lying_service() -> Iterator[tuple[str, str]]:
    lying = LyingService()

    class Api(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            answer = json.dumps(lying.publish(body["data"])).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *args: Any) -> None:
            pass

    with (
        ThreadingHTTPServer(("127.0.0.1", 0), Api) as api,
        serve_websocket(lying.listen, "127.0.0.1", 0) as sockets,
    ):
        for server in (api, sockets):
            threading.Thread(target=server.serve_forever, daemon=True).start()
        ws = sockets.socket.getsockname()[1]
        yield f"ws://127.0.0.1:{ws}/", f"http://127.0.0.1:{api.server_address[1]}"
        sockets.shutdown()
        api.shutdown()


def test_a_service_that_loses_silently_is_found_out():
    with lying_service() as (listen, publish):
        options = ("--url", listen, "--publish-url", publish, "--every", "0.05", "--seconds", "1")
        running = probe(*options)
        output, _ = running.communicate(timeout=60)
    assert running.returncode == 1, output
    assert "SILENT LOSS" in output
    assert "2 publications were lost silently" in output  # one for each listener


def test_without_a_key_it_says_what_to_set():
    env = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.broken_settings"}
    found = subprocess.run(
        [sys.executable, "manage.py", "probe", "--connections", "0"],
        cwd=ROOT, env=env, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert found.returncode == 2
    assert "is not a number from 1 to 1000" in found.stderr
