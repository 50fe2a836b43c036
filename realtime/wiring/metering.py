"""Counts what this process publishes, and reads the metrics that belong to none of its nodes.

The nodes count what they deliver for themselves (`realtime.core.meters`).
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING

from realtime.api.answers import count_failures
from realtime.auth.token_log import count_refused_tokens
from realtime.core import metrics
from realtime.core.meters import PublishMeter

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import TracebackType

    from realtime.brokers import Stats
    from realtime.core.meters import Alone
    from realtime.core.metrics import Snapshot
    from realtime.core.publication import Publication, Receipt
    from realtime.errors import RealtimeError

HTTP, CLIENT, PYTHON = "http", "client", "python"
"""How something is published: by the HTTP API, by a client, or by code of the host."""


AT_ONCE = 256
"""How many publications that were sent alone are counted together."""


class LockedMeter(PublishMeter):
    """What an event loop or the threads publish: changed and read under a lock, by any thread.

    A publication that is sent alone is written down, and counted with others later. Counting took
    a tenth of the CPU time of a single HTTP publish when done in between (`python -m bench
    publish`), several times what it takes in a loop, where the processor has its code at hand.
    """

    def __init__(self) -> None:
        """Start at zero."""
        super().__init__()
        self._lock = threading.Lock()
        self.written_down: list[Alone] = []
        """What is counted later; never more than `AT_ONCE` for long."""

    def note_receipt(
        self, method: str, publication: Publication, receipt: Receipt, seconds: float
    ) -> None:
        """Count a publication that was sent alone, now or before anybody reads."""
        waiting = self.written_down
        size = len(publication.body)
        waiting.append((method, publication.channel, size, receipt.repeated, seconds))
        if len(waiting) >= AT_ONCE:
            with self._lock:
                self._count_alone()

    def _count_alone(self) -> None:
        """Count what is written down; the lock is held, but others may write down more."""
        number = len(self.written_down)
        self.note_alone(self.written_down[:number])
        del self.written_down[:number]

    def note(
        self,
        method: str,
        publications: Iterable[Publication],
        outcomes: Iterable[object],
        seconds: float,
    ) -> None:
        """Count publications; see `PublishMeter.note`."""
        with self._lock:
            super().note(method, publications, outcomes, seconds)

    def read(self) -> Snapshot:
        """Return the values of all counters."""
        with self._lock:
            self._count_alone()
            return super().read()

    def count_published(self) -> int:
        """Return how many were published."""
        with self._lock:
            self._count_alone()
            return super().count_published()


of_threads = LockedMeter()


class Measured:
    """A context in which publications are sent: counts their outcomes, and how long it took.

    Without outcomes at its end, it counts them as failed by the exception that left it. A publish
    whose client has gone while it was sent (`CancelledError`) has an unknown outcome.
    """

    __slots__ = ("_began", "_meter", "_method", "_publications", "outcomes")

    def __init__(
        self, meter: PublishMeter, method: str, publications: Sequence[Publication]
    ) -> None:
        """Prepare to count publications that came by a method: one of those above."""
        self._meter = meter
        self._method = method
        self._publications = publications
        self.outcomes: Sequence[Receipt | RealtimeError] = ()
        self._began = time.perf_counter()

    def __enter__(self) -> Measured:
        """Return this."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Count."""
        seconds = time.perf_counter() - self._began
        self._meter.note(self._method, self._publications, self.outcomes or repeat(error), seconds)


def read_queue(stats: Stats) -> Snapshot:
    """Return the metrics of the fallback queue."""
    entries = {name: getattr(stats, name) for name in ("waiting", "in_hand", "later", "dead")}
    results = ("handled", "retried", "taken_over", "given_up")
    return {
        metrics.QUEUE_ENTRIES.name: metrics.by_label(entries),
        metrics.QUEUE_BYTES.name: metrics.one(stats.bytes),
        metrics.QUEUE_OLDEST.name: metrics.one(stats.oldest_seconds),
        metrics.QUEUE_HANDS.name: metrics.one(stats.hands),
        metrics.QUEUE_ATTEMPTS.name: metrics.by_label(
            {result: getattr(stats, result) for result in results}
        ),
    }


def read_process() -> Snapshot:
    """Return the metrics of this process that belong to no node."""
    snapshot = of_threads.read()
    snapshot[metrics.REFUSED_REQUESTS.name] = metrics.by_label(count_failures())
    snapshot[metrics.REFUSED_TOKENS.name] = metrics.by_label(count_refused_tokens())
    snapshot[metrics.CPU_SECONDS.name] = metrics.one(time.process_time())
    with suppress(OSError):  # there is no /proc
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        snapshot[metrics.MEMORY.name] = metrics.one(pages * os.sysconf("SC_PAGE_SIZE"))
        snapshot[metrics.FILES.name] = metrics.one(len(os.listdir("/proc/self/fd")))
    return snapshot
