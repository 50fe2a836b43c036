"""A worker in this test's event loop, and what its handlers received."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from realtime.brokers.redis_queue import RedisQueue
from realtime.core.fallback_entry import Queued
from realtime.fallbacks.threads import Threads
from realtime.fallbacks.worker import Handler, Worker, WorkerOptions


class Got(list[Queued]):
    """A handler that stores what it receives."""

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
    """Run a worker in the block; at its end it is stopped, and must end."""
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
