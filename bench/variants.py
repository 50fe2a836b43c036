"""The service under other conditions, to measure what a condition is worth.

`notifier@PATH` runs it with another interpreter (the environment of that interpreter has the
packages of requirements.txt), or, if PATH is a directory, from another checkout with that
checkout's `.venv`. `notifier-2@PATH` does the same with two workers.
"""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

from bench.servers import Fleet, Ours, Server
from notifier.listening import BACKLOG

DEFER_SECONDS = 10
"""How long the kernel waits for the first bytes of a connection before it hands it over."""


class DeferredAccept(Ours):
    """The service with TCP_DEFER_ACCEPT: it is not woken before a client has sent something."""

    name = "notifier, TCP_DEFER_ACCEPT"

    def command(self) -> list[str]:
        command = super().command()
        self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, DEFER_SECONDS)
        return command


class ReusedPort(Fleet):
    """The service with a listening socket for each of two workers (SO_REUSEPORT), not one for both.

    The kernel then distributes the connections by their addresses.
    """

    name = "notifier, 2 workers, SO_REUSEPORT"

    def command(self) -> list[str]:
        self._listener, other = (_reused(self.port) for _ in range(self.workers))
        self._other = subprocess.Popen(
            self.worker(other),
            cwd=self.root,
            env={**os.environ, "REDIS_URL": self.redis_url, **self.environment()},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(other.fileno(),),
        )
        other.close()
        return self.worker(self._listener)

    def inherited(self) -> tuple[int, ...]:
        return (self._listener.fileno(),)

    def workers_now(self) -> list[int]:
        return [self.pid, self._other.pid]

    def is_live(self) -> bool:
        """Return whether both are ready: a new connection reaches either."""
        return all(super(ReusedPort, self).is_live() for _ in range(20))

    def stop(self) -> None:
        """Stop both."""
        self._other.kill()
        self._other.wait()
        super().stop()


def _reused(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(BACKLOG)
    return listener


def variant(kind: type[Ours], path: Path) -> type[Server]:
    """Return a server like ``kind``, but of another interpreter or checkout."""
    is_checkout = path.is_dir()
    attributes = {
        "__doc__": f"{kind.__doc__} ({path})",
        "name": f"{kind.name}@{path}",
        "root": path if is_checkout else kind.root,
        "python": str(path / ".venv" / "bin" / "python" if is_checkout else path),
    }
    return type(f"{kind.__name__}At", (kind,), attributes)


VARIANTS: dict[str, type[Server]] = {
    "notifier-defer": DeferredAccept,
    "notifier-2-reuseport": ReusedPort,
}
