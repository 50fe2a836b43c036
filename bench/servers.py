"""The servers to measure: how to start each, connect to it and publish on it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from bench import identities
from bench.crowd import OURS, Dialect
from notifier.listening import listening_socket
from realtime.brokers.redis_sync import SyncRedisBroker
from realtime.core.publication import Publication
from tests.support.chat import NOTIFIER_NAMESPACES

ROOT = Path(__file__).resolve().parents[1]
SERVER_CPU, OTHERS_CPU = 0, 1
CHANNEL = "public:bench"
DATA = {"text": "x" * 100}
API_KEY = "bench-key-that-is-long-enough-to-be-taken"
TICK = os.sysconf("SC_CLK_TCK")
WEBSOCKETS = frozenset(
    {"closed", "pipelined", "crowds", "load", "storm", "idle", "slow", "channels"}
)
WITH_TOKEN = replace(OURS, hello=OURS.hello.replace("{{}}", '{{"token":"{secret}"}}', 1))
WITH_SESSION = replace(OURS, headers="Origin: http://127.0.0.1\r\nCookie: sessionid={secret}\r\n")
HTTP = frozenset({"closed-http", "pipelined-http", "publish", "publishers"})


def free_port() -> int:
    """Return an unused port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """One server process on its own CPU; everything else runs on the other one."""

    name = ""
    root = ROOT
    """The working directory of the process."""
    dialect: Dialect = OURS
    channel = CHANNEL
    pipelined_rounds = 5000
    batch_options: Mapping[str, object] = {}
    """Options of a batch, besides its commands."""
    scenarios: frozenset[str] = WEBSOCKETS
    """Names of the scenarios that it supports."""

    def identities(self, count: int) -> dict[str, tuple[Dialect, list[str]]]:
        """Return how clients may identify themselves: the dialect, and a secret for each client."""
        return {
            "anonymous": (self.dialect, []),
            "token, HS256": (WITH_TOKEN, identities.hs256_tokens(count)),
            "token, ES256": (WITH_TOKEN, identities.es256_tokens(count)),
        }

    @classmethod
    def missing(cls) -> str:
        """Return what must be installed before it can run here; empty if nothing is missing."""
        return ""

    def __init__(self, redis_url: str) -> None:
        self.redis_url = redis_url
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        """Return the command that starts it."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """Return the environment variables that it needs."""
        return {}

    def inherited(self) -> tuple[int, ...]:
        """Return the file descriptors that it inherits."""
        return ()

    def publish(self, count: int) -> None:
        """Publish this many times, in one write if possible."""
        raise NotImplementedError

    def publish_timed(self, size: int) -> None:
        """Publish this many bytes once, including the time in nanoseconds as ``"t":…``."""
        raise NotImplementedError

    def publish_to(self, channels: list[str]) -> None:
        """Publish once to each of the channels, in one round trip."""
        raise NotImplementedError

    def start(self) -> None:
        """Start it and wait until it listens."""
        command = self.command()
        self._process = subprocess.Popen(
            command,
            cwd=self.root,
            env={**os.environ, "REDIS_URL": self.redis_url, **self.environment()},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=self.inherited(),
            preexec_fn=lambda: os.sched_setaffinity(0, {SERVER_CPU}),
        )
        deadline = time.monotonic() + 30
        while not self._listens():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError(f"{self.name} did not start")
            time.sleep(0.02)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        """Stop it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    @property
    def pid(self) -> int:
        """The process that does the work."""
        assert self._process is not None
        return self._process.pid

    def cpu_seconds(self) -> tuple[float, float]:
        """Return the CPU time of the process so far: in user mode, in the kernel."""
        return _cpu_seconds(self.pid)

    def resident_bytes(self) -> int:
        """Return the resident memory of the process."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text(encoding="utf-8").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


class Ours(Server):
    """The service with one worker, as the Procfile runs it."""

    name = "notifier"
    python = sys.executable
    scenarios = WEBSOCKETS | HTTP | {"python", "joins"}

    def __init__(self, redis_url: str) -> None:
        super().__init__(redis_url)
        self._folder = tempfile.TemporaryDirectory(prefix="bench-notifier-")
        self._broker = SyncRedisBroker(redis_url)
        self._publication = Publication.of(CHANNEL, DATA)

    def command(self) -> list[str]:
        self._listener = listening_socket("127.0.0.1", self.port)
        return self.worker(self._listener)

    def worker(self, listener: socket.socket) -> list[str]:
        """Return the command of a worker on this socket."""
        return [self.python, "-m", "notifier.server", "--fd", str(listener.fileno())]

    def inherited(self) -> tuple[int, ...]:
        return (self._listener.fileno(),)

    def start(self) -> None:
        super().start()
        self._listener.close()
        while not self.is_live():
            time.sleep(0.02)

    def is_live(self) -> bool:
        """Return whether it is ready."""
        with socket.create_connection(("127.0.0.1", self.port)) as probe:
            probe.sendall(b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            return b" 200 " in probe.recv(4096)

    def environment(self) -> dict[str, str]:
        return {
            "DJANGO_SETTINGS_MODULE": "notifier.settings",
            "DEBUG": "0",
            "HTTPS": "0",
            "SECRET_KEY": "only for measuring, but long enough to be taken for a key",
            "NOTIFIER_API_KEY": API_KEY,
            "ALLOWED_HOSTS": "127.0.0.1",
            "NOTIFIER_NAMESPACES": NOTIFIER_NAMESPACES,
            "NOTIFIER_TOKEN_SECRET": identities.HS256_SECRET,
            "NOTIFIER_TOKEN_PUBLIC_KEY": identities.es256_public_key(),
            "DATABASE_URL": f"sqlite:///{self._folder.name}/db.sqlite3",
        }

    def identities(self, count: int) -> dict[str, tuple[Dialect, list[str]]]:
        environment = {**os.environ, "REDIS_URL": self.redis_url, **self.environment()}
        keys = identities.sessions(count, environment)
        return {**super().identities(count), "session": (WITH_SESSION, keys)}

    def publish(self, count: int) -> None:
        if count == 1:
            self._broker.publish(self._publication)
        else:
            self._broker.publish_many([self._publication] * count)

    def publish_timed(self, size: int) -> None:
        data = {"t": time.monotonic_ns(), "text": "x" * (size - 40)}
        self._broker.publish(Publication.of(CHANNEL, data))

    def publish_to(self, channels: list[str]) -> None:
        self._broker.publish_many([Publication.of(name, DATA) for name in channels])


class OursOnDaphne(Ours):
    """The service on Daphne (as in runserver), which cannot send ready frames."""

    name = "notifier, Daphne"
    scenarios = frozenset({"closed", "slow"})

    def command(self) -> list[str]:
        self._listener = listening_socket("127.0.0.1", self.port)
        endpoint = f"fd:fileno={self._listener.fileno()}"
        return [sys.executable, "-m", "daphne", "-e", endpoint, "notifier.asgi:application"]


class Fleet(Ours):
    """The service with several workers, as `notifier serve` runs it, on all processors."""

    name = "notifier, 2 workers"
    workers = 2
    scenarios = frozenset({"closed-http", "pipelined-http", "publish", "publishers", "storm"})

    def command(self) -> list[str]:
        return [self.python, "-m", "notifier", "serve"]

    def environment(self) -> dict[str, str]:
        where = {"HOST": "127.0.0.1", "PORT": str(self.port)}
        return {**super().environment(), **where, "WEB_CONCURRENCY": str(self.workers)}

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        migrate = [self.python, "manage.py", "migrate", "--verbosity", "0"]
        env = {**os.environ, "REDIS_URL": self.redis_url, **self.environment()}
        subprocess.run(migrate, cwd=self.root, env=env, check=True)
        collect = [self.python, "manage.py", "collectstatic", "--clear", "--noinput", "-v", "0"]
        # Earlier versions, to which this one may be compared, have no folder for it, and need none.
        subprocess.run(collect, cwd=self.root, env=env, check=False, stderr=subprocess.DEVNULL)
        Server.start(self)
        use_all_processors(self.pid)
        live = 0
        while live < 20 * self.workers or _is_preparing(self.pid):  # each worker answers some
            live = live + 1 if self.is_live() else 0
            time.sleep(0.02)
        for pid in self.workers_now():
            use_all_processors(pid)

    def inherited(self) -> tuple[int, ...]:
        return ()

    def cpu_seconds(self) -> tuple[float, float]:
        """Return the CPU time of the workers; the launcher only waits."""
        spent = [_cpu_seconds(pid) for pid in self.workers_now()]
        return sum(user for user, _ in spent), sum(system for _, system in spent)

    def workers_now(self) -> list[int]:
        """Return the worker processes."""
        return _children(self.pid)


def use_all_processors(pid: int) -> None:
    """Lift the restriction of a server to one processor."""
    os.sched_setaffinity(pid, range(os.cpu_count() or 1))


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    return [int(child) for child in text.split()]


def _is_preparing(pid: int) -> bool:
    """Tell whether the launcher still prepares, which takes CPU time that is not the workers'."""
    return any(
        b"notifier.prepare" in Path(f"/proc/{child}/cmdline").read_bytes()
        for child in _children(pid)
    )


def _cpu_seconds(pid: int) -> tuple[float, float]:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return int(fields[11]) / TICK, int(fields[12]) / TICK


class Floor(Server):
    """Only an asyncio `transport.write`: the best that Python can do."""

    name = "floor"
    pipelined_rounds = 500
    scenarios = frozenset({"closed", "pipelined", "crowds", "channels"})
    dialect = Dialect(path="/", marker=b'"pub":{')

    def command(self) -> list[str]:
        return [sys.executable, "-m", "bench.peers.floor", str(self.port)]

    def start(self) -> None:
        super().start()
        self._control = socket.create_connection(("127.0.0.1", self.port))

    def publish(self, count: int) -> None:
        for _ in range(count):
            self._control.sendall(b"PUBLISH\n")

    def publish_to(self, channels: list[str]) -> None:
        numbers = " ".join(name.rpartition("c")[2] for name in channels)
        self._control.sendall(f"TO {numbers}\n".encode())

    def stop(self) -> None:
        self._control.close()
        super().stop()


class Relay(Server):
    """Only asyncio's callbacks between HTTP, Redis and frames: the least that a publish costs."""

    name = "floor, Redis"
    scenarios = frozenset({"publish", "publishers"})
    dialect = Dialect(path="/", marker=b'"pub":{')

    def command(self) -> list[str]:
        return [sys.executable, "-m", "bench.peers.relay", str(self.port), self.redis_url]


OWN: dict[str, type[Server]] = {
    "notifier": Ours,
    "notifier-daphne": OursOnDaphne,
    "notifier-2": Fleet,
    "floor": Floor,
    "floor-redis": Relay,
}
