"""Reports the states of one run of a task: throttled, and always including the newest."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from realtime.contrib.pace import Pace
from realtime.contrib.records import log_unpublished
from realtime.errors import BrokerError

REPORT_PAUSE_SECONDS = 5.0
"""The pause after a failed report, so that a task does not wait for an unreachable Redis."""


class Cancelled(BaseException):
    """The task has been cancelled. No `Exception`, so a task does not catch it by accident."""


class Reporter:
    """The reporter of one run of a task; its creator closes it."""

    def __init__(self, tell: Callable[[str, dict[str, Any]], bool], seconds: float) -> None:
        """Start without reports.

        Args:
            tell: Publishes a state and its fields; returns whether the task has been cancelled.
            seconds: The shortest interval between two progress reports.
        """
        self._tell_state = tell
        self._pace = Pace(seconds)
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._newest: dict[str, Any] | None = None
        self._is_cancelled = False
        self._is_closed = False

    def say(self, word: str, **more: Any) -> None:
        """Report a state immediately."""
        with self._lock:
            self._tell(word, more)

    def report(self, **more: Any) -> None:
        """Report progress now, or after the rest of the interval unless newer progress replaces it.

        Raises:
            Cancelled: The task has been cancelled.
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
        """Report no more progress: the last state follows."""
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
            log_unpublished(error)
            pause = REPORT_PAUSE_SECONDS
        self._pace.note_attempt(time.monotonic(), pause=pause)
