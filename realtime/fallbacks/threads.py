"""One thread per call, for functions that may hang; abandoned when the caller stops waiting.

A pool of fixed size would eventually be full of hung calls.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Threads:
    """Runs functions in threads, and counts those whose caller no longer waits."""

    def __init__(self, at_end: Callable[[], None] = lambda: None) -> None:
        """Start without threads.

        Args:
            at_end: Called in each thread before it ends, to close thread-local resources.
        """
        self._at_end = at_end
        self._left: set[Future[Any]] = set()

    @property
    def left(self) -> int:
        """How many abandoned calls are still running; the process cannot exit before they end."""
        self._left = {future for future in self._left if not future.done()}
        return len(self._left)

    async def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a function; return what it returns, or raise what it raises.

        A cancelled caller leaves the thread running: nothing can stop it.
        """
        executor = ThreadPoolExecutor(1, thread_name_prefix="realtime fallback")
        future = executor.submit(contextvars.copy_context().run, self._call, function, *arguments)
        executor.shutdown(wait=False)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            self._left.add(future)
            raise

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except (StopIteration, SystemExit) as error:
            # A future cannot raise StopIteration, and SystemExit would end the event loop.
            raise RuntimeError(repr(error)) from error
        finally:
            self._at_end()
