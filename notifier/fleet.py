"""The worker processes: kept running, stopped together, never left behind.

Handles processes, signals and the URL that must respond; the caller starts it and prints. One
task per worker owns its process from start to end. The workers hold one end of a pipe whose other
end only this process has, so they also exit when it is killed.
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
from typing import NamedTuple
from urllib.parse import urlsplit

from notifier.listening import STOP_SECONDS
from notifier.measuring import Measures
from notifier.preparation import Preparation, python_path
from realtime.management.stop_signals import ignored_signals_text, signals_to_handle

logger = logging.getLogger("notifier.fleet")

# A cold start on a slow disk takes seconds; a service that needs a minute will never start.
START_SECONDS = 60.0
# The delay between two starts of a worker that keeps dying: doubles from the first number to the
# second. The first replacement starts immediately, because new connections to the node wait for it.
RESTART_BACKOFF_SECONDS = (0.5, 10.0)
# A worker that lived this long was healthy: if it dies, its replacement starts immediately again.
HEALTHY_SECONDS = 30.0
PROCESS_POLL_SECONDS = 0.5
# How long a dead worker's socket may take to say so.
LAST_WORDS_SECONDS = 1.0

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class ServiceEnded(Exception):
    """The service ended without being asked to; the text says why."""


class Companion(NamedTuple):
    """A process alongside the workers: a module and its arguments, as for ``python -m``."""

    name: str
    """Shown in the log."""
    module: str
    arguments: tuple[str, ...] = ()


class Fleet:
    """The workers: a fixed number, restarted when they die, stopped together.

    Includes companions, which start once the service has responded. One task per process owns it
    from start to end.
    """

    def __init__(
        self,
        workers: int,
        listener: socket.socket,
        environ: Mapping[str, str],
        *,
        linger: float,
        companions: Sequence[Companion] = (),
        measures: Measures | None = None,
    ) -> None:
        """Prepare the processes; `keep` starts them.

        Args:
            workers: Their number.
            listener: The socket on which all of them accept connections.
            environ: Their environment.
            linger: How long a worker still accepts connections after SIGTERM.
            companions: Processes beside the workers.
            measures: Asks the workers for their metrics; None if nobody wants any.
        """
        self._workers = workers
        self._companions = companions
        self._measures = measures
        self._listener = listener
        self._environ = {**environ, "PYTHONPATH": python_path(environ)}
        self._linger = linger
        self._processes: set[asyncio.subprocess.Process] = set()
        self._stopping = asyncio.Event()
        self._answered = asyncio.Event()
        self._failure = ""
        # Workers hold the first end; only we have the second, so it closes when we are gone.
        self._lifeline, self._held = os.pipe()

    async def keep(self) -> None:
        """Keep all workers running, and return once `stop` was called and they have exited.

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
            raise ServiceEnded(self._failure)
        logger.info("all processes have stopped")

    def note_answer(self) -> None:
        """Record that the service has responded once: from now on dead workers are replaced."""
        self._answered.set()

    def stop(self) -> None:
        """Let the workers drain and exit; on a second call, make them exit immediately."""
        if self._stopping.is_set():
            logger.warning("stopping immediately, after a second signal")
            self._terminate_all()
            return
        logger.info("stopping %d processes, which have %.0f s", len(self._processes), STOP_SECONDS)
        self._stopping.set()
        self._listener.close()  # the workers still have it while they drain

    def fail(self, reason: str) -> None:
        """Stop because the service cannot go on."""
        self._failure = self._failure or reason
        if not self._stopping.is_set():
            self.stop()

    def _terminate_all(self) -> None:
        for process in self._processes:
            _terminate(process)

    async def _keep_companion(self, companion: Companion) -> None:
        """Keep it running once the service has responded; earlier it would slow down the start."""
        waits = [asyncio.create_task(event.wait()) for event in (self._answered, self._stopping)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        lifeline = ("--lifeline", str(self._lifeline))
        command = ("notifier.companion", *lifeline, companion.module, *companion.arguments)
        await self._keep_one(f"the {companion.name}", command)

    async def _keep_one(self, name: str, command: Sequence[str]) -> None:
        loop = asyncio.get_running_loop()
        least, most = RESTART_BACKOFF_SECONDS
        pause = 0.0
        while not self._stopping.is_set():
            started = loop.time()
            try:
                code: int | str = await self._run_one(command)
            except OSError as error:  # too many processes or files, or no memory for another one
                code = f"none, {error.strerror}"
            if self._stopping.is_set():
                return
            if not self._answered.is_set():
                self.fail(f"{name} exited with code {code} while starting; see the messages above.")
                return
            if loop.time() - started > HEALTHY_SECONDS:
                pause = 0.0
            logger.error("%s exited with code %s; restarting in %.1f s", name, code, pause)
            await self._pause(pause)
            pause = min(max(least, 2 * pause), most)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    async def _run_one(self, command: Sequence[str]) -> int:
        if self._measures is None or "--fd" not in command:
            return await self._run_to_end(command)
        ours, theirs = self._measures.offer()
        attending = asyncio.create_task(self._measures.attend(ours))
        try:
            with theirs:  # until the worker has it
                command = (*command, "--metrics", str(theirs.fileno()))
                return await self._run_to_end(command, theirs)
        finally:
            await asyncio.wait([attending], timeout=LAST_WORDS_SECONDS)
            attending.cancel()

    async def _run_to_end(self, command: Sequence[str], theirs: socket.socket | None = None) -> int:
        process = await self._spawn(command, theirs)
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

    async def _spawn(
        self, command: Sequence[str], theirs: socket.socket | None
    ) -> asyncio.subprocess.Process:
        # Its own session: Ctrl-C in the terminal is for the launcher, which passes it on once.
        sockets = [self._listener] if "--fd" in command else []
        if theirs is not None:
            sockets.append(theirs)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", *command),
            stdin=asyncio.subprocess.DEVNULL,
            env=self._environ,
            pass_fds=(*(each.fileno() for each in sockets), self._lifeline),
            start_new_session=True,
        )
        if theirs is not None:
            theirs.close()  # otherwise our end would stay open when the worker is gone
        return process


async def _end(process: asyncio.subprocess.Process, exited: asyncio.Task[int]) -> None:
    _terminate(process)
    _, late = await asyncio.wait({exited}, timeout=STOP_SECONDS)
    if late:
        logger.error("killing process %d: it did not stop within %.0f s", process.pid, STOP_SECONDS)
        process.kill()


def _end_rest(leader: int) -> None:
    """Kill what a killed process has left behind in its session."""
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
    """Run the fleet until a signal arrives or something fails.

    Args:
        fleet: The workers.
        url: Where they respond.
        announce: Called once, when they respond and the preparation is done.
        preparation: Must be done as well.
        watches: Coroutines to run at the same time.

    Raises:
        Ended: Something failed.
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
    if text := ignored_signals_text(_STOP_SIGNALS):
        print(f"notifier: {text}", file=sys.stderr)
    loop = asyncio.get_running_loop()
    for number in signals_to_handle(_STOP_SIGNALS):
        loop.add_signal_handler(number, stop)


async def _announce_when_live(
    fleet: Fleet, url: str, announce: Callable[[], None], preparation: Preparation
) -> None:
    try:
        async with asyncio.timeout(START_SECONDS):
            while not preparation.is_done():
                if failure := preparation.failure():
                    fleet.fail(failure)
                    return
                await asyncio.sleep(0.05)
            while not await _is_live(url):  # noqa: ASYNC110 - the other side has no event of ours
                await asyncio.sleep(0.05)
    except TimeoutError:
        fleet.fail(f"the service did not respond at {url}/livez within {START_SECONDS:.0f} s.")
        return
    fleet.note_answer()
    announce()


async def _is_live(url: str) -> bool:
    # The socket is already listening: an early connection waits for the first worker.
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
    """Poll a process that cannot notify us, and call ``gone`` when it has ended."""
    while alive():  # noqa: ASYNC110 - see above
        await asyncio.sleep(PROCESS_POLL_SECONDS)
    gone()
