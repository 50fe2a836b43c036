"""Which signals stop our programs, and the message about those that are ignored.

A process inherits ignored signals: ``nohup`` ignores SIGHUP, and a shell without job control
ignores SIGINT for background commands (POSIX, Shell Command Language, 2.11). Installing a handler
anyway would undo what the parent asked for, so our programs leave an ignored signal ignored.
SIGTERM is never left out: something must stop the program.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from signal import Signals


def signals_to_handle(numbers: Sequence[Signals]) -> list[Signals]:
    """Return the signals to install a handler for. Call it before any handler is installed."""
    return [number for number in numbers if not _is_left_ignored(number)]


def ignored_signals_text(numbers: Sequence[Signals]) -> str:
    """Return a line for stderr that names the ignored signals; empty if none is ignored."""
    ignored = [number.name for number in numbers if _is_left_ignored(number)]
    if not ignored:
        return ""
    verb = "is" if len(ignored) == 1 else "are"
    return (
        f"{' and '.join(ignored)} {verb} ignored because the parent process ignores it; "
        f"stop this process with: kill {os.getpid()}"
    )


def _is_left_ignored(number: Signals) -> bool:
    return number != signal.SIGTERM and signal.getsignal(number) is signal.SIG_IGN
