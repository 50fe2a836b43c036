"""The signal dispositions of child processes, independent of how the tests were started."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

ORDINARY = {signal.SIGINT: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}
"""What a terminal gives a program. `nohup make test &` would pass on ignored signals."""
IGNORED = dict.fromkeys(ORDINARY, signal.SIG_IGN)


def give_children_ordinary_signals() -> None:
    """Give all children of the tests the default dispositions. In the main thread only.

    A signal that was ignored is still ignored here, but by a handler, which exec resets to the
    default.
    """
    for number in ORDINARY:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, _do_nothing)


@contextmanager
def dispositions(wanted: Mapping[signal.Signals, Any] = ORDINARY) -> Iterator[None]:
    """Give children started in the block these dispositions. In the main thread only."""
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
