"""A real server process that serves the host project of `tests.settings`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.chat import NOTIFIER_NAMESPACES
from tests.support.database import migrated_url
from tests.support.eventually import eventually_sync
from tests.support.ports import free_port
from tests.support.static_files import collect
from tests.support.zygote import ZYGOTE, ForkedProcess, may_fork

ROOT = Path(__file__).resolve().parents[2]
SERVERS = ("uvicorn", "daphne", "framed")
"""Stock uvicorn, Daphne, and uvicorn with the service's protocol class, which takes frames."""
DEPLOYED = "deployed"
"""Instead of a host project, the service itself under its own launcher, as in production."""
ANNOUNCEMENT = "The notifier is live"
"""The line that the launcher prints when the workers respond and the database is ready."""
KEY = {"X-API-Key": "test-key"}
DEPLOYMENT = {
    "DJANGO_SETTINGS_MODULE": "notifier.settings",
    "SECRET_KEY": "s" * 50,
    "NOTIFIER_API_KEY": KEY["X-API-Key"],
    "ALLOWED_HOSTS": "127.0.0.1",
    "NOTIFIER_NAMESPACES": NOTIFIER_NAMESPACES,
}
"""The environment variables of a deployment of the service."""


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="this system does not tell memory by /proc"
)


def _is_worker(command: Path) -> bool:
    try:
        return b"notifier.server" in command.read_bytes()
    except OSError:  # the process has ended
        return False


class Service:
    """One server process; `log` contains its complete output."""

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
        self._process: subprocess.Popen[bytes] | ForkedProcess | None = None
        self.port = port or free_port()
        self.http = f"http://127.0.0.1:{self.port}"
        self.ws = f"ws://127.0.0.1:{self.port}/connection/websocket"

    def start(self, *, live: bool = True) -> Service:
        began = len(self.log) if self._log.exists() else 0
        env = {
            **os.environ,
            "PYTHONUNBUFFERED": "1",  # Daphne's access log is buffered in a file
            "DJANGO_SETTINGS_MODULE": "tests.settings",
            "TEST_REDIS_URL": self._redis_url,
            "REDIS_URL": self._redis_url,
            **(self._deployment() if self.server == DEPLOYED else {}),
            **self._env,
        }
        module, *arguments = self._command()
        with self._log.open("ab") as log:
            if self.server != DEPLOYED and may_fork(env):
                self._process = ZYGOTE.start(module, arguments, env, log.fileno())
            else:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", module, *arguments],
                    cwd=ROOT, env=env, stdout=log, stderr=log,
                )  # fmt: skip
        process = self._process
        try:
            answers = self.is_live if live else self.is_alive
            eventually_sync(lambda: answers() or process.poll() is not None, seconds=20)
            if live and self.server == DEPLOYED:
                # Before this line, the launcher counts a killed worker as a failed start.
                eventually_sync(lambda: ANNOUNCEMENT in self.log[began:], seconds=20)
            assert process.poll() is None
        except AssertionError:
            raise AssertionError(f"the service did not start:\n{self.log}") from None
        return self

    def _deployment(self) -> dict[str, str]:
        collect()
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
        # Polled while a server starts, so with the cheapest client.
        connection = HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except (OSError, HTTPException):
            return 0
        finally:
            connection.close()

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
        """The serving process: the only worker of the launcher, or this one (`needs_proc`)."""
        if self.server != DEPLOYED:
            return self.pid
        [worker] = self.worker_pids
        return worker

    @property
    def worker_pids(self) -> list[int]:
        """The workers of the launcher."""
        children = (
            Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text(encoding="utf-8").split()
        )
        # For a moment, the launcher may have another child that prepares the database.
        return [int(pid) for pid in children if _is_worker(Path(f"/proc/{pid}/cmdline"))]

    @property
    def resident_bytes(self) -> int:
        """The resident memory of the process; only on Linux (`needs_proc`)."""
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
        """Kill a launcher, and wait until its worker has noticed and exited."""
        worker = self.worker_pid
        self.kill()
        eventually_sync(lambda: not Path(f"/proc/{worker}").exists())

    def terminate(self) -> None:
        """Send SIGTERM without waiting for the end."""
        os.kill(self.pid, signal.SIGTERM)

    def wait(self, seconds: float) -> None:
        """Wait until the process has ended, successfully."""
        if self._process is not None:
            code = self._process.wait(seconds)
            assert code == 0, f"it ended with {code}:\n{self.log}"
            self._process = None

    def crash(self) -> None:
        """Kill all processes at once, like a power failure."""
        worker = self.worker_pid
        self._end(signal.SIGKILL)
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)

    def kill_worker(self) -> None:
        """Kill the serving process; its launcher starts another one."""
        os.kill(self.worker_pid, signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(timeout=60)
            self._process = None
