"""A Celery worker of the host project: a process and its pool."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.support.eventually import eventually_sync

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = (
    *("worker", "--concurrency", "2", "--loglevel", "INFO"),
    *("--without-gossip", "--without-mingle"),
)


class CeleryWorker:
    """A worker process of the host project, with its pool."""

    def __init__(
        self, log: Path, app: str = "tests.shop.celery", cwd: Path = ROOT, **env: str
    ) -> None:
        self._log = log
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", app, *OPTIONS],
                cwd=cwd,
                env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings", **env},
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_until_ready(self) -> None:
        eventually_sync(lambda: " ready." in self.log, seconds=30)

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def kill_pool(self) -> None:
        """Kill the pool processes, which run the tasks, but not the main process."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        for pid in children.read_text(encoding="utf-8").split():
            os.kill(int(pid), signal.SIGKILL)

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()
