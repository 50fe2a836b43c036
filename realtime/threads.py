"""Threads for functions that may hang: one for each call, left behind if nobody waits any longer.

A pool of several would be full of what hangs after a while.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Threads:
    """Runs functions, and knows which of them nobody waits for any longer."""

    def __init__(self, at_end: Callable[[], None] = lambda: None) -> None:
        """Begin without a thread.

        Args:
            at_end: Called in each thread before it ends: to close what belongs to it.
        """
        self._at_end = at_end
        self._left: set[Future[Any]] = set()

    @property
    def left(self) -> int:
        """How many run on although nobody waits for them; the process cannot end before them."""
        self._left = {future for future in self._left if not future.done()}
        return len(self._left)

    async def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return what a function returns, or raise what it raises.

        Whoever is cancelled here leaves the thread behind: nothing can end it.
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
            # The one cannot be raised where it is awaited, the other would end the event loop.
            raise RuntimeError(repr(error)) from error
        finally:
            self._at_end()
