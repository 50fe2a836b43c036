"""Shares the time of the event loop between clients that send much and everybody else."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

TURN_SECONDS = 0.002
"""How long all such clients together may take in a turn of the event loop."""


class FairTurns:
    """The clients that have sent more than they may in one turn, in the order of their turns.

    With a slice for each of them in each turn, twenty clients that flooded a worker made everybody
    else wait for twenty slices.
    """

    def __init__(self) -> None:
        """Nobody waits."""
        self._waiting: deque[Callable[[], None]] = deque()
        self._is_scheduled = False

    def later(self, loop: asyncio.AbstractEventLoop, go_on: Callable[[], None]) -> None:
        """Call back in a later turn, after those who wait already."""
        self._waiting.append(go_on)
        self._schedule(loop)

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._is_scheduled and self._waiting:
            self._is_scheduled = True
            loop.call_soon(self._run, loop)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let them go on, each at most once, until the time of this turn is used up."""
        self._is_scheduled = False
        ends = loop.time() + TURN_SECONDS
        try:
            for _ in range(len(self._waiting)):
                self._waiting.popleft()()
                if loop.time() > ends:
                    break
        finally:  # also if one of them raises, which the loop logs
            self._schedule(loop)
