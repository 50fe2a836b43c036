"""Starts server processes by forking one that has imported the libraries already.

A server needs half a second of CPU time to import Django and the rest, and the tests start
hundreds. A forked one is a process of its own like any other: only its imports are already done.
What the environment decides before Python runs a line of code (`PYTHON…`, `LC_…`, preloaded
libraries) still needs an ordinary start: see `may_fork`.

Started by the tests as ``python -m tests.support.zygote FD``. A request is a JSON object with two
descriptors: for standard output and standard error together, and for the exit status. The zygote
ends with its connection to the tests.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = (
    *("uvicorn.main", "uvicorn.lifespan.on", "uvicorn.protocols.http.httptools_impl"),
    *("uvicorn.protocols.websockets.websockets_sansio_impl", "uvicorn.loops.asyncio"),
    *("channels.routing", "channels.consumer", "channels.db"),
    *("django.core.asgi", "django.core.handlers.asgi", "django.db.models", "django.forms"),
    *("django.template.defaultfilters", "django.core.serializers.json", "django.views.debug"),
    *("django.db.backends.sqlite3.base", "django.core.management", "django.middleware.csrf"),
    *("redis.asyncio", "redis", "hiredis", "msgspec", "jwt"),
    *("cryptography.hazmat.primitives.asymmetric.ec", "twisted.internet.defer"),
)
PACKAGES = ("core", "protocols", "connection", "identity", "api", "brokers", "delivery")
"""Of `realtime`: those that read no setting when they are imported."""
DECIDED_BEFORE = ("PYTHON", "LC_", "LANG", "LD_", "FAKETIME", "TZ", "MALLOC")
"""What these variables say is read by the interpreter, or by the C library, when it starts."""
HARMLESS = {"PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"}
REQUEST_BYTES = 1 << 20


def may_fork(env: Mapping[str, str]) -> bool:
    """Tell whether a process with this environment may be forked from one with ours."""
    changed = {
        name
        for name in env.keys() | os.environ.keys()
        if env.get(name) != os.environ.get(name) and name not in HARMLESS
    }
    return sys.platform == "linux" and not any(name.startswith(DECIDED_BEFORE) for name in changed)


class ForkedProcess:
    """A child of the zygote, with the part of `subprocess.Popen` that the tests use."""

    def __init__(self, pid: int, status: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._status = status

    def poll(self) -> int | None:
        """Return the exit status, or None while the process runs."""
        self._look(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status.

        Raises:
            TimeoutExpired: The process still runs.
        """
        self._look(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(f"forked process {self.pid}", timeout or 0.0)
        return self.returncode

    def _look(self, seconds: float | None) -> None:
        if self.returncode is not None:
            return
        poll = select.poll()
        poll.register(self._status, select.POLLIN)
        if poll.poll(None if seconds is None else seconds * 1000):
            said = os.read(self._status, 16)
            os.close(self._status)
            self.returncode = int(said) if said else -signal.SIGKILL

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Zygote:
    """The tests' side: one for each process of the tests, started with its first server."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._owner = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(
        self, module: str, arguments: Sequence[str], env: Mapping[str, str], output: int
    ) -> ForkedProcess:
        """Start ``python -m module`` in the checkout.

        Args:
            module: The module to run.
            arguments: Its arguments.
            env: The whole environment; see `may_fork`.
            output: The descriptor for standard output and standard error.
        """
        request = json.dumps({"module": module, "arguments": arguments, "env": dict(env)})
        read, write = os.pipe()
        with self._lock:
            connection = self._connection()
            socket.send_fds(connection, [request.encode()], [output, write])
            os.close(write)
            pid = int(connection.recv(64))
        return ForkedProcess(pid, read)

    def _connection(self) -> socket.socket:
        if self._socket is None or self._owner != os.getpid():
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            for end in (ours, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, REQUEST_BYTES)
            # Kept: it ends with the connection, when this process ends.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.zygote", str(theirs.fileno())],
                cwd=ROOT, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
            )  # fmt: skip
            theirs.close()
            self._socket, self._owner = ours, os.getpid()
        return self._socket


ZYGOTE = Zygote()


class Job(NamedTuple):
    """What a forked process has to do."""

    module: str
    arguments: list[str]
    env: dict[str, str]
    output: int


def serve(connection: socket.socket) -> Job | None:
    """Fork for each request; return twice: in each child its job, and None at the end."""
    children: dict[int, int] = {}
    woken, wake = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    inputs: list[Any] = [connection, woken]
    while True:
        ready, _, _ = select.select(inputs, [], [])
        if woken in ready:
            os.read(woken, 4096)
            _report(children)
        if connection not in ready:
            continue
        data, descriptors, _, _ = socket.recv_fds(connection, REQUEST_BYTES, 2)
        if not data:
            return None
        output, status = descriptors
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for descriptor in (woken, wake, status, *children.values()):
                os.close(descriptor)
            connection.close()
            return Job(**json.loads(data), output=output)
        os.close(output)
        children[pid] = status
        connection.send(str(pid).encode())


def _report(children: dict[int, int]) -> None:
    """Write the status of each child that has ended."""
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        with os.fdopen(children.pop(pid), "wb") as file:
            try:
                file.write(str(os.waitstatus_to_exitcode(status)).encode())
                file.flush()
            except BrokenPipeError:
                pass  # nobody asked


def become(job: Job) -> None:
    """Run the module of a job, as ``python -m`` does."""
    os.dup2(job.output, 1)
    os.dup2(job.output, 2)
    os.close(job.output)
    os.environ.clear()
    os.environ.update(job.env)
    tempfile.tempdir = None  # from the environment, when it is asked for
    time.tzset()
    stdout: Any = sys.stdout
    stdout.reconfigure(line_buffering=True)  # PYTHONUNBUFFERED, which Daphne's access log needs
    sys.argv = [job.module, *job.arguments]
    runpy.run_module(job.module, run_name="__main__", alter_sys=True)


def _import_libraries() -> None:
    for name in LIBRARIES:
        importlib.import_module(name)
    for package in PACKAGES:
        path = str(ROOT / "realtime" / package)
        for module in pkgutil.walk_packages([path], f"realtime.{package}."):
            importlib.import_module(module.name)


if __name__ == "__main__":
    _import_libraries()
    if threading.active_count() > 1:
        raise RuntimeError("a library has started a thread: it would be missing after a fork")
    gc.collect()
    gc.freeze()
    found = serve(socket.socket(fileno=int(sys.argv[1])))
    if found is not None:
        become(found)
