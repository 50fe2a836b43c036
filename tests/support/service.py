"""A real server process that serves the foreign host project of `tests.settings`."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.chat import NOTIFIER_NAMESPACES
from tests.support.database import migrated_url
from tests.support.eventually import eventually_sync

ROOT = Path(__file__).resolve().parents[2]
SERVERS = ("uvicorn", "daphne", "framed")
"""Stock uvicorn, Daphne, and uvicorn with the protocol class of the service, which takes frames."""
DEPLOYED = "deployed"
"""No host project: the service itself, under its own launcher, as in production."""
KEY = {"X-API-Key": "test-key"}
DEPLOYMENT = {
    "DJANGO_SETTINGS_MODULE": "notifier.settings",
    "SECRET_KEY": "s" * 50,
    "NOTIFIER_API_KEY": KEY["X-API-Key"],
    "ALLOWED_HOSTS": "127.0.0.1",
    "NOTIFIER_NAMESPACES": NOTIFIER_NAMESPACES,
}
"""What a deployment of the service sets."""


def free_port() -> int:
    """Return a port that nobody has, out of those that no client is given as its own (32768 up)."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)  # not the seed of the tests' order
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="this system does not tell memory by /proc"
)


def _is_worker(command: Path) -> bool:
    try:
        return b"notifier.server" in command.read_bytes()
    except OSError:  # it has ended
        return False


class Service:
    """One server process; `log` is all that it has printed."""

    def __init__(
        self,
        redis_url: str,
        server: str = "uvicorn",
        *,
        app: str = "tests.asgi:application",
        port: int = 0,
        **env: str,
    ) -> None:
        self.server = server
        self._app = app
        self._redis_url = redis_url
        self._env = env
        self._log = Path(
            os.path.join(os.environ.get("TMPDIR", "/tmp"), f"service-{os.getpid()}-{id(self)}.log")
        )
        self._process: subprocess.Popen[bytes] | None = None
        self.port = port or free_port()
        self.http = f"http://127.0.0.1:{self.port}"
        self.ws = f"ws://127.0.0.1:{self.port}/connection/websocket"

    def start(self, *, live: bool = True) -> Service:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *self._command()],
                cwd=ROOT,
                env={
                    **os.environ,
                    "PYTHONUNBUFFERED": "1",  # Daphne's access log is buffered in a file
                    "DJANGO_SETTINGS_MODULE": "tests.settings",
                    "TEST_REDIS_URL": self._redis_url,
                    "REDIS_URL": self._redis_url,
                    **(self._deployment() if self.server == DEPLOYED else {}),
                    **self._env,
                },
                stdout=log,
                stderr=log,
            )
        try:
            eventually_sync(self.is_live if live else self.is_alive, seconds=20)
        except AssertionError:
            raise AssertionError(f"the service did not start:\n{self.log}") from None
        return self

    def _deployment(self) -> dict[str, str]:
        return {"PORT": str(self.port), "DATABASE_URL": migrated_url(), **DEPLOYMENT}

    def _command(self) -> list[str]:
        if self.server == DEPLOYED:
            return ["notifier", "serve"]
        if self.server == "daphne":
            return [
                "daphne",
                "-b",
                "127.0.0.1",
                "-p",
                str(self.port),
                "--ping-interval",
                "0",
                self._app,
            ]
        framed = self.server == "framed"
        ws = "notifier.websocket:WebSocketProtocol" if framed else "websockets-sansio"
        return [
            *("uvicorn", self._app, "--port", str(self.port), "--ws", ws),
            *("--ws-per-message-deflate", "false", "--timeout-graceful-shutdown", "5"),
        ]

    def is_alive(self) -> bool:
        return self._status("/livez") == 200

    def is_live(self) -> bool:
        return self._status("/readyz") == 200

    def _status(self, path: str) -> int:
        try:
            return httpx.get(self.http + path, timeout=2).status_code
        except httpx.HTTPError:
            return 0

    def publish(self, channel: str, data: Any, **fields: Any) -> dict[str, Any]:
        """Publish over HTTP and return the result; anything but success fails the test."""
        response = self.post("publish", {"channel": channel, "data": data, **fields})
        assert response.status_code == 200, response.text
        result: dict[str, Any] = response.json()["result"]
        return result

    def post(self, method: str, body: Any) -> httpx.Response:
        return httpx.post(f"{self.http}/api/{method}", json=body, headers=KEY, timeout=60)

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def worker_pid(self) -> int:
        """The process that serves: the only worker of the launcher, or this one (`needs_proc`)."""
        if self.server != DEPLOYED:
            return self.pid
        children = (
            Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text(encoding="utf-8").split()
        )
        # Beside it there may be the one that prepares the database, for a moment.
        [worker] = [pid for pid in children if _is_worker(Path(f"/proc/{pid}/cmdline"))]
        return int(worker)

    @property
    def resident_bytes(self) -> int:
        """Memory that the process really has; only Linux tells (`needs_proc`)."""
        pages = Path(f"/proc/{self.pid}/statm").read_text(encoding="utf-8").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def stop(self) -> None:
        self._end(signal.SIGTERM)
        self._log.unlink(missing_ok=True)

    def freeze(self) -> None:
        os.kill(self.worker_pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.worker_pid, signal.SIGCONT)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def drop(self) -> None:
        """Kill a launcher, which need not be waited for: its worker notices, and leaves at once."""
        worker = self.worker_pid
        self.kill()
        eventually_sync(lambda: not Path(f"/proc/{worker}").exists())

    def terminate(self) -> None:
        """Ask it to leave, and do not wait."""
        os.kill(self.pid, signal.SIGTERM)

    def wait(self, seconds: float) -> None:
        """Wait until it has ended."""
        if self._process is not None:
            code = self._process.wait(seconds)
            assert code == 0, f"it ended with {code}:\n{self.log}"
            self._process = None

    def crash(self) -> None:
        """Kill all of it, as a machine would that loses its power."""
        worker = self.worker_pid
        self._end(signal.SIGKILL)
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)

    def kill_worker(self) -> None:
        """Kill the process that serves; its launcher starts another one."""
        os.kill(self.worker_pid, signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(timeout=60)
            self._process = None
