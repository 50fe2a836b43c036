"""The processes of `tests.outbox_site`: its server, its workers, and commands on its database."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.eventually import eventually_sync
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer
from tests.support.service import ROOT, Service

READ = """
import json
from django.db import connection
from realtime.contrib.outbox.models import OutboxRow
with connection.cursor() as cursor:
    cursor.execute("SELECT n FROM orders")
    orders = [n for n, in cursor.fetchall()]
rows = OutboxRow.objects.order_by("pk").values_list("body", "published_at")
print(json.dumps([orders, [json.loads(body)["data"]["n"] for body, _ in rows],
                  sum(at is None for _, at in rows)]))
"""
CREATE = """
from django.db import connection
from realtime.contrib.outbox.models import OutboxRow
OutboxRow.objects.all().delete()
with connection.cursor() as cursor:
    cursor.execute("DROP TABLE IF EXISTS orders")
    cursor.execute("CREATE TABLE orders (n integer)")
"""


class Committed(NamedTuple):
    """What is in the database."""

    orders: list[int]
    """The orders that were committed."""
    rows: list[int]
    """Those of the outbox, in the order in which they were written."""
    waiting: int


class OutboxSite:
    """One server and several workers; each can be killed and started again."""

    def __init__(self, redis: RedisServer, database_url: str, folder: Path, workers: int) -> None:
        self._variables = {
            "DJANGO_SETTINGS_MODULE": "tests.outbox_settings",
            "TEST_DATABASE_URL": database_url,
        }
        self._env = {**os.environ, **self._variables, "TEST_REDIS_URL": redis.url}
        self._folder = folder
        self._workers: list[subprocess.Popen[bytes]] = []
        self._count = workers
        self._started = 0
        self.run("migrate", "--verbosity", "0")
        self._shell(CREATE)
        self.service = Service(
            redis.url, app="tests.asgi_static:application", port=free_port(), **self._variables
        )

    def start(self) -> None:
        self.service.start()
        self.start_workers()

    def stop(self) -> None:
        self.service.stop()
        self.kill_workers(signal.SIGTERM)
        assert "Traceback" not in self.log, self.log

    def start_workers(self) -> None:
        for _ in range(self._count):
            self._started += 1
            with (self._folder / f"worker-{self._started}.log").open("wb") as log:
                command = [sys.executable, "-m", "django", "runoutbox", "--poll", "0.1"]
                worker = subprocess.Popen(command, cwd=ROOT, env=self._env, stdout=log, stderr=log)
            self._workers.append(worker)

    def kill_workers(self, number: signal.Signals = signal.SIGKILL) -> None:
        for worker in self._workers:
            worker.send_signal(number)
        for worker in self._workers:
            assert worker.wait(60) == (0 if number == signal.SIGTERM else -number), self.log
        self._workers.clear()

    @property
    def log(self) -> str:
        return "".join(path.read_text() for path in sorted(self._folder.glob("worker-*.log")))

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "django", *arguments],
            cwd=ROOT, env=self._env, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def read(self) -> Committed:
        found: Any = json.loads(self._shell(READ))
        return Committed(*found)

    def wait_until_published(self) -> Committed:
        """Wait until no row waits any more."""
        eventually_sync(
            lambda: json.loads(self.run("outbox", "stats"))["waiting"] == 0, seconds=120
        )
        return self.read()

    def _shell(self, code: str) -> str:
        return self.run("shell", "--no-imports", "--verbosity", "0", "--command", code)
