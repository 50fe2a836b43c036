"""The metrics of all workers together: each worker and the launcher ask each other for them.

They talk over a pair of connected sockets, so this works while Redis is away, and nobody else can
connect. Both sides send lines: ``ask``, or a snapshot as the answer to the oldest ``ask``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections import deque
from collections.abc import Awaitable, Callable

from realtime.core.metrics import (
    SNAPSHOT_BYTES,
    WORKER_STARTS,
    WORKERS,
    InvalidSnapshot,
    Snapshot,
    add_up,
    decode_snapshot,
    encode_snapshot,
    one,
    without_gauges,
)

logger = logging.getLogger("notifier.measuring")

ANSWER_SECONDS = 1.0
"""How long a side may take to answer; Prometheus waits for 10 s by default."""
REFRESH_SECONDS = 1.0
"""How often the launcher asks anyway: what a killed worker has counted since is lost."""
ASKED_LIMIT = 16
"""Questions that may wait for an answer: the other side hangs, and further ones fail at once."""
_ASK = b"ask\n"

Read = Callable[[], Awaitable[Snapshot]]


class Peer:
    """One side of a pair of sockets; `keep` is its task."""

    def __init__(self, end: socket.socket, read: Read) -> None:
        """Take over a connected socket.

        Args:
            end: This side's socket.
            read: Returns the answer to the other side's question.
        """
        self._end = end
        self._read = read
        self._asked: deque[asyncio.Future[Snapshot]] = deque()
        self._owed: asyncio.Queue[None] = asyncio.Queue(ASKED_LIMIT)
        self._writer: asyncio.StreamWriter | None = None

    async def keep(self) -> None:
        """Answer until the other side is gone."""
        reader, writer = await asyncio.open_connection(sock=self._end, limit=SNAPSHOT_BYTES)
        self._writer = writer
        answering = asyncio.create_task(self._answer(writer))
        try:
            while line := await reader.readline():
                if line == _ASK:
                    self._owed.put_nowait(None)
                elif self._asked:
                    self._take(line)
        except (OSError, ValueError, asyncio.QueueFull) as error:
            logger.info("the connection for metrics ended: %s", type(error).__name__)
        finally:
            self._writer = None
            answering.cancel()
            writer.close()
            for future in self._asked:
                future.cancel()

    async def ask(self) -> Snapshot | None:
        """Return the other side's snapshot; None if it does not answer in time."""
        if self._writer is None or len(self._asked) >= ASKED_LIMIT:
            return None
        future = asyncio.get_running_loop().create_future()
        self._asked.append(future)
        self._writer.write(_ASK)
        done, _ = await asyncio.wait([future], timeout=ANSWER_SECONDS)
        return future.result() if done and not future.cancelled() else None

    async def _answer(self, writer: asyncio.StreamWriter) -> None:
        """Answer in a task of its own: to do so, the launcher may have to ask this very side."""
        with contextlib.suppress(OSError):
            while True:
                await self._owed.get()
                writer.write(encode_snapshot(await self._read()) + b"\n")
                await writer.drain()

    def _take(self, line: bytes) -> None:
        future = self._asked.popleft()  # perhaps nobody waits for it any more
        try:
            future.set_result(decode_snapshot(line))
        except InvalidSnapshot as error:
            logger.warning("a worker sent invalid metrics: %s", ascii(str(error)))
            future.cancel()


class Measures:
    """The launcher's side: the workers that run, and what earlier ones have counted."""

    def __init__(self, *, is_refreshed: bool = True) -> None:
        """Start without workers.

        Args:
            is_refreshed: Whether to ask all workers each second, so that counters survive their
                ends; without it, they are asked only when somebody reads.
        """
        self._is_refreshed = is_refreshed
        self._latest: dict[Peer, Snapshot] = {}
        self._ended: Snapshot = {}
        self._started = 0

    def offer(self) -> tuple[socket.socket, socket.socket]:
        """Return a pair of sockets: the launcher's end, and that of a new worker."""
        return socket.socketpair()

    async def attend(self, end: socket.socket) -> None:
        """Keep the connection to one worker until it ends."""
        peer = Peer(end, self.read)
        self._started += 1
        self._latest[peer] = {}
        refreshing = asyncio.create_task(self._refresh(peer)) if self._is_refreshed else None
        try:
            await peer.keep()
        finally:
            if refreshing is not None:
                refreshing.cancel()
            counted = without_gauges(self._latest.pop(peer))
            self._ended = add_up([self._ended, counted])

    async def read(self) -> Snapshot:
        """Return the metrics of all workers, also of those that have ended.

        A worker that does not answer counts with what it said last: a counter must not fall.
        """
        await asyncio.gather(*(self._ask(peer) for peer in list(self._latest)))
        own = {
            WORKERS.name: one(len(self._latest)),
            WORKER_STARTS.name: one(self._started),
        }
        return add_up([own, self._ended, *self._latest.values()])

    async def _refresh(self, peer: Peer) -> None:
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            await self._ask(peer)

    async def _ask(self, peer: Peer) -> None:
        snapshot = await peer.ask()
        if snapshot is not None and peer in self._latest:
            self._latest[peer] = snapshot


_launcher: list[Peer] = []
"""In a worker: the connection to the launcher, if it asks for metrics."""


async def attend_launcher(end: socket.socket, read: Read) -> None:
    """Answer the launcher's questions for as long as it runs.

    Args:
        end: The worker's socket.
        read: Returns the metrics of this worker.
    """
    peer = Peer(end, read)
    _launcher.append(peer)
    await peer.keep()


async def read_all_workers() -> Snapshot | None:
    """In a worker: return the metrics of all workers; None if the launcher does not answer."""
    return await _launcher[0].ask() if _launcher else None
