"""What one run of a task says about itself: at its pace, the newest always."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from realtime.contrib.pace import Pace
from realtime.contrib.records import told_nothing
from realtime.errors import BrokerError

REST_SECONDS = 5.0
"""Without progress, after it could not be told: a task shall not wait for a Redis that is away."""


class Cancelled(BaseException):
    """Somebody has cancelled the task. No `Exception`: a task's own handlers let it through."""


class Reporter:
    """Belongs to one run of a task; whoever makes it closes it."""

    def __init__(self, tell: Callable[[str, dict[str, Any]], bool], seconds: float) -> None:
        """Say nothing yet.

        Args:
            tell: Tells a state and its facts; returns whether the task is cancelled.
            seconds: Between two words about progress.
        """
        self._tell_state = tell
        self._pace = Pace(seconds)
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._newest: dict[str, Any] | None = None
        self._is_cancelled = False
        self._is_closed = False

    def say(self, word: str, **more: Any) -> None:
        """Tell a state at once."""
        with self._lock:
            self._tell(word, more)

    def report(self, **more: Any) -> None:
        """Tell progress now, or a little later if something newer does not come before.

        Raises:
            Cancelled: Somebody has cancelled the task.
        """
        with self._lock:
            self._newest = more
            wait = self._pace.wait(time.monotonic())
            if wait == 0.0:
                self._tell("progress", more)
            elif wait is not None:
                self._timer = threading.Timer(wait, self._tell_late)
                self._timer.daemon = True
                self._timer.start()
        if self._is_cancelled:
            raise Cancelled

    def close(self) -> None:
        """Say no more: what comes now is the end."""
        with self._lock:
            self._is_closed = True
            if self._timer is not None:
                self._timer.cancel()

    def _tell_late(self) -> None:
        with self._lock:
            self._timer = None
            if not self._is_closed and self._newest is not None:
                self._tell("progress", self._newest)

    def _tell(self, word: str, more: dict[str, Any]) -> None:
        self._newest = None
        pause = 0.0
        try:
            self._is_cancelled = self._tell_state(word, more) or self._is_cancelled
        except BrokerError as error:
            told_nothing(error)
            pause = REST_SECONDS
        self._pace.told(time.monotonic(), pause=pause)
