"""A worker in this test's loop, and what its handlers got."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from realtime.brokers.redis_queue import RedisQueue
from realtime.queued import Queued
from realtime.threads import Threads
from realtime.worker import Handler, Worker, WorkerOptions


class Got(list[Queued]):
    """A handler that keeps what it is given."""

    async def __call__(self, queued: Queued) -> None:
        self.append(queued)

    @property
    def data(self) -> list[Any]:
        return [queued.data for queued in self]


@asynccontextmanager
async def working(
    queue: RedisQueue,
    handlers: Mapping[str, Handler],
    *,
    threads: Threads | None = None,
    **options: Any,
) -> AsyncIterator[Worker]:
    """Let a worker work; it is stopped at the end, and must have ended then."""
    given = {"hands": 2, "attempts": 3, "handler_seconds": 5.0, "lease_seconds": 3.0, **options}
    worker = Worker(queue, handlers, WorkerOptions(**given), threads=threads)
    running = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        worker.stop()
        try:
            await asyncio.wait_for(running, 15)
        finally:
            running.cancel()
