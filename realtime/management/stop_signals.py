"""Which signals stop a program of ours, and what it says where one of them is ignored.

A process inherits ignored signals: ``nohup`` ignores SIGHUP, and a shell without job control
ignores SIGINT for what it starts in the background (POSIX, Shell Command Language, 2.11). A program
that installs its handler all the same would take back what its starter asked for, so ours leave an
ignored signal ignored. SIGTERM is never left out: something must stop the program.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from signal import Signals


def heeded(numbers: Sequence[Signals]) -> list[Signals]:
    """Return the signals to install a handler for. Call it before any handler is installed."""
    return [number for number in numbers if not _is_left_ignored(number)]


def notice(numbers: Sequence[Signals]) -> str:
    """Return a line for stderr that names the ignored signals; empty if none is ignored."""
    ignored = [number.name for number in numbers if _is_left_ignored(number)]
    if not ignored:
        return ""
    verb = "is" if len(ignored) == 1 else "are"
    return (
        f"{' and '.join(ignored)} {verb} ignored, as the program that started this one asked for; "
        f"stop it with: kill {os.getpid()}"
    )


def _is_left_ignored(number: Signals) -> bool:
    return number != signal.SIGTERM and signal.getsignal(number) is signal.SIG_IGN
