"""What a child process does about signals, however the tests themselves were started."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

ORDINARY = {signal.SIGINT: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}
"""What a terminal gives a program. `nohup make test &` would hand down ignored signals."""
IGNORED = dict.fromkeys(ORDINARY, signal.SIG_IGN)


@contextmanager
def dispositions(wanted: Mapping[signal.Signals, Any] = ORDINARY) -> Iterator[None]:
    """Let children that are started inside inherit these. In the main thread only.

    The tests themselves go on as they were told: where a signal was ignored, a Python handler that
    does nothing stands in for that, since exec turns handlers, but not SIG_IGN, into the default.
    """
    before = {number: signal.getsignal(number) for number in wanted}
    changed = {number for number in wanted if signal.SIG_IGN in (before[number], wanted[number])}
    for number in changed:
        ignored = wanted[number] is signal.SIG_IGN
        signal.signal(number, signal.SIG_IGN if ignored else _do_nothing)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, before[number])


def _do_nothing(*_: object) -> None:
    """See `dispositions`."""
