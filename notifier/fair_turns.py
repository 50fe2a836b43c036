"""A round-robin queue that limits how much event-loop time flooding clients get."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

TURN_SECONDS = 0.002
"""The time that all queued clients together may take per iteration of the event loop."""


class FairTurns:
    """Queue of the clients whose messages did not fit into one slice, in round-robin order.

    If each of them had its own slice per iteration, twenty flooding clients would delay everybody
    else by twenty slices.
    """

    def __init__(self) -> None:
        """Create an empty queue."""
        self._waiting: deque[Callable[[], None]] = deque()
        self._is_scheduled = False

    def later(self, loop: asyncio.AbstractEventLoop, go_on: Callable[[], None]) -> None:
        """Call ``go_on`` in a later iteration, after the clients that are already queued."""
        self._waiting.append(go_on)
        self._schedule(loop)

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._is_scheduled and self._waiting:
            self._is_scheduled = True
            loop.call_soon(self._run, loop)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        """Resume queued clients, each at most once, until the time of an iteration is used."""
        self._is_scheduled = False
        ends = loop.time() + TURN_SECONDS
        try:
            for _ in range(len(self._waiting)):
                self._waiting.popleft()()
                if loop.time() > ends:
                    break
        finally:  # also if one of them raises, which the loop logs
            self._schedule(loop)
