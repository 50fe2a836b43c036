"""The worker processes: kept running, stopped together, never left behind.

Knows processes, signals and the URL that must answer; not who wants it all or what is printed. One
task per worker owns its process from its start to its end. The workers hold one end of a pipe whose
other end only this process has, so they leave also when it is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from notifier.preparation import Preparation
from notifier.server import STOP_SECONDS
from realtime.management.stop_signals import heeded, notice

logger = logging.getLogger("notifier.fleet")

# A cold start on a slow disk takes seconds; a service that needs a minute will not come.
START_SECONDS = 60.0
# Between two starts of a worker that keeps dying: doubled from the first to the second number. The
# first replacement starts at once: until it serves, what connects to the node waits.
RESTART_SECONDS = (0.5, 10.0)
# A worker that lived this long was healthy: when it dies, its replacement starts at once again.
HEALTHY_SECONDS = 30.0
LOOK_SECONDS = 0.5

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_CHECKOUT = Path(__file__).resolve().parent.parent


class Ended(Exception):
    """The service ended although nobody asked it to; the text says why."""


class Companion(NamedTuple):
    """A process beside the workers: a module and its arguments, as for ``python -m``."""

    name: str
    """For the log."""
    module: str
    arguments: tuple[str, ...] = ()


class Fleet:
    """The workers: as many as asked for, started again when they die, stopped together.

    Companions too, which start when the service has answered. One task per process owns it from the
    start to the end.
    """

    def __init__(
        self,
        workers: int,
        listener: socket.socket,
        environ: Mapping[str, str],
        *,
        linger: float,
        companions: Sequence[Companion] = (),
    ) -> None:
        self._workers = workers
        self._companions = companions
        self._listener = listener
        self._environ = {**environ, "PYTHONPATH": _python_path(environ)}
        self._linger = linger
        self._processes: set[asyncio.subprocess.Process] = set()
        self._stopping = asyncio.Event()
        self._answered = asyncio.Event()
        self._failure = ""
        # Workers hold the first end; nobody but us has the second, so it closes when we are gone.
        self._lifeline, self._held = os.pipe()

    async def keep(self) -> None:
        """Keep all workers running, and return when `stop` has been called and they have left.

        Raises:
            Ended: `fail` was called; its reason is the text.
        """
        try:
            await asyncio.gather(
                *(self._keep_one("a worker", self._worker()) for _ in range(self._workers)),
                *(self._keep_companion(companion) for companion in self._companions),
            )
        finally:
            os.close(self._held)
            os.close(self._lifeline)
        if self._failure:
            raise Ended(self._failure)

    def answered(self) -> None:
        """Note that the service has answered once: from now on a dead worker is replaced."""
        self._answered.set()

    def stop(self) -> None:
        """Let the workers drain and leave; called again, make them leave at once."""
        if self._stopping.is_set():
            self._terminate_all()
            return
        self._stopping.set()
        self._listener.close()  # the workers still have it, for as long as they linger

    def fail(self, reason: str) -> None:
        """Stop because the service cannot go on."""
        self._failure = self._failure or reason
        if not self._stopping.is_set():
            self.stop()

    def _terminate_all(self) -> None:
        for process in self._processes:
            _terminate(process)

    async def _keep_companion(self, companion: Companion) -> None:
        """Keep it running once the service has answered, which it must not slow down."""
        waits = [asyncio.create_task(event.wait()) for event in (self._answered, self._stopping)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        lifeline = ("--lifeline", str(self._lifeline))
        command = ("notifier.companion", *lifeline, companion.module, *companion.arguments)
        await self._keep_one(f"the {companion.name}", command)

    async def _keep_one(self, name: str, command: Sequence[str]) -> None:
        loop = asyncio.get_running_loop()
        least, most = RESTART_SECONDS
        pause = 0.0
        while not self._stopping.is_set():
            started = loop.time()
            code = await self._run_one(command)
            if self._stopping.is_set():
                return
            if not self._answered.is_set():
                self.fail(f"{name} ended with code {code} while starting; see above.")
                return
            if loop.time() - started > HEALTHY_SECONDS:
                pause = 0.0
            logger.error("%s ended with code %s; the next starts in %.1f s", name, code, pause)
            await self._pause(pause)
            pause = min(max(least, 2 * pause), most)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    async def _run_one(self, command: Sequence[str]) -> int:
        process = await self._spawn(command)
        self._processes.add(process)
        exited = asyncio.create_task(process.wait())
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({exited, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not exited.done():
                await _end(process, exited)
            return await exited
        finally:
            stopping.cancel()
            self._processes.discard(process)
            if process.returncode is not None and process.returncode < 0:
                _end_rest(process.pid)

    def _worker(self) -> Sequence[str]:
        return (
            "notifier.server",
            *("--fd", str(self._listener.fileno())),
            *("--lifeline", str(self._lifeline)),
            *("--linger", str(self._linger)),
        )

    async def _spawn(self, command: Sequence[str]) -> asyncio.subprocess.Process:
        # A session of its own: Ctrl-C in the terminal is for the launcher, which passes it on once.
        sockets = (self._listener.fileno(),) if "--fd" in command else ()
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", *command),
            stdin=asyncio.subprocess.DEVNULL,
            env=self._environ,
            pass_fds=(*sockets, self._lifeline),
            start_new_session=True,
        )


async def _end(process: asyncio.subprocess.Process, exited: asyncio.Task[int]) -> None:
    _terminate(process)
    _, late = await asyncio.wait({exited}, timeout=STOP_SECONDS)
    if late:
        logger.error("process %d did not stop in %.0f s and is killed", process.pid, STOP_SECONDS)
        process.kill()


def _end_rest(leader: int) -> None:
    """End what a process that was killed has left behind, in the session that was its own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def _terminate(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()


async def supervise(
    fleet: Fleet,
    url: str,
    *,
    announce: Callable[[], None],
    preparation: Preparation,
    watches: Sequence[Coroutine[None, None, None]] = (),
) -> None:
    """Run the fleet until a signal comes or something fails.

    Args:
        fleet: The workers.
        url: Where they answer.
        announce: Called once, when they do and the preparation is done.
        preparation: What has to be ready as well.
        watches: Run meanwhile.

    Raises:
        Ended: something failed.
    """
    _on_stop_signals(fleet.stop)
    live = _announce_when_live(fleet, url, announce, preparation)
    tasks = [asyncio.create_task(watch) for watch in (live, *watches)]
    try:
        await fleet.keep()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _on_stop_signals(stop: Callable[[], None]) -> None:
    if text := notice(_STOP_SIGNALS):
        print(f"notifier: {text}", file=sys.stderr)
    loop = asyncio.get_running_loop()
    for number in heeded(_STOP_SIGNALS):
        loop.add_signal_handler(number, stop)


async def _announce_when_live(
    fleet: Fleet, url: str, announce: Callable[[], None], preparation: Preparation
) -> None:
    try:
        async with asyncio.timeout(START_SECONDS):
            while not preparation.done():
                if failure := preparation.failure():
                    fleet.fail(failure)
                    return
                await asyncio.sleep(0.05)
            while not await _is_live(url):  # noqa: ASYNC110 - the other side has no event of ours
                await asyncio.sleep(0.05)
    except TimeoutError:
        fleet.fail(f"the service did not answer {url}/livez within {START_SECONDS:.0f} s.")
        return
    fleet.answered()
    announce()


async def _is_live(url: str) -> bool:
    # The socket already listens: a connection made too early waits for the first worker.
    parts = urlsplit(url)
    try:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    except OSError:
        return False
    try:
        writer.write(f"GET /livez HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
        return b" 200 " in await reader.readline()
    except OSError:
        return False
    finally:
        writer.close()


async def watch(alive: Callable[[], bool], gone: Callable[[], None]) -> None:
    """Look at a process that cannot tell us when it ends, and call ``gone`` when it has."""
    while alive():  # noqa: ASYNC110 - see above
        await asyncio.sleep(LOOK_SECONDS)
    gone()


def _python_path(environ: Mapping[str, str]) -> str:
    # The checkout is not installed; children find it wherever they are started from.
    return os.pathsep.join(filter(None, (str(_CHECKOUT), environ.get("PYTHONPATH", ""))))
