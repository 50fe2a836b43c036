"""Counters of what a node delivers and what a process publishes, read only when somebody asks.

A meter is a few plain numbers. Per delivery nothing is counted: a fan-out to a thousand connections
adds one product. Not for several threads: each event loop has meters of its own, and those of what
is published have a lock (`realtime.wiring.metering`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import TYPE_CHECKING, Protocol

from realtime.core import metrics
from realtime.core.names import INTERNAL_PREFIX, namespace_of
from realtime.core.positions import GapReason
from realtime.core.publication import Receipt
from realtime.errors import IdempotencyConflict, OutcomeUnknown, RealtimeError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from realtime.core.metrics import Labels, Snapshot
    from realtime.core.positions import Gap
    from realtime.core.publication import Publication

KNOWN, OPEN = "known", "open"
"""How a gap ends: at a known offset, or with its epoch."""
PUBLISHED, REPEATED = "published", "repeated"
NOT_PUBLISHED, UNKNOWN, CONFLICT = "not_published", "unknown", "conflict"
OUTCOMES = (PUBLISHED, REPEATED, NOT_PUBLISHED, UNKNOWN, CONFLICT)
"""What can become of a publication."""


class Histogram:
    """How many observations were at most as large as each bound."""

    __slots__ = ("_counts", "_sum")

    def __init__(self) -> None:
        """Start without observations."""
        self._counts = [0] * (len(metrics.SECONDS) + 1)
        self._sum = 0.0

    def observe(self, seconds: float, times: int = 1) -> None:
        """Count a value; a negative one, of clocks that disagree, counts as 0."""
        seconds = max(0.0, seconds)
        self._counts[bisect_left(metrics.SECONDS, seconds)] += times
        self._sum += seconds * times

    def read(self, labels: Labels = ()) -> dict[Labels, float]:
        """Return the numbers of observations between each two bounds, and their sum."""
        bounds = [*map(str, metrics.SECONDS), metrics.INFINITE]
        counts = zip(bounds, list(self._counts), strict=True)
        return {
            **{(*labels, bound): count for bound, count in counts},
            (*labels, metrics.SUM): self._sum,
        }


class ChannelMeter:
    """What was delivered on the channels of one namespace."""

    __slots__ = (
        "bytes",
        "channels",
        "delays",
        "deliveries",
        "discarded",
        "epochs_ended",
        "gaps",
        "missed",
        "subscriptions",
    )

    def __init__(self) -> None:
        """Start at zero, with every reason: a series that begins with a loss shows no increase."""
        self.delays = Histogram()
        """From the acceptance of a publication until it was written to all listeners."""
        self.deliveries = 0
        self.bytes = 0
        self.discarded = 0
        self.epochs_ended = 0
        self.subscriptions = 0
        """At present; likewise below."""
        self.channels = 0
        self.missed: dict[str, int] = dict.fromkeys(map(str, GapReason), 0)
        """By reason."""
        self.gaps: dict[tuple[str, str], int] = {
            (reason, end): 0 for reason in self.missed for end in (KNOWN, OPEN)
        }
        """By reason and end."""

    def count_deliveries(self, publications: int, size: int, listeners: int) -> None:
        """Count publications of ``size`` bytes together that were delivered to some listeners."""
        self.deliveries += publications * listeners
        self.bytes += size * listeners

    def count_gap(self, gap: Gap, reason: str, listeners: int = 1) -> None:
        """Count a gap that some listeners are told."""
        missed = gap.missed
        self.gaps[reason, OPEN if missed is None else KNOWN] += listeners
        if missed is not None:
            self.missed[reason] += missed * listeners


class MeasuredOutbox(Protocol):
    """An outbox, as far as it is measured."""

    @property
    def bytes(self) -> int:
        """Bytes that wait in it."""


class NodeMeters:
    """The meters of one node: one for each namespace, and the outboxes in use."""

    def __init__(self) -> None:
        """Start without namespaces. There are never more than the configuration names."""
        self._namespaces: dict[str, ChannelMeter] = {}
        self._internal = ChannelMeter()
        self.outboxes: dict[MeasuredOutbox, None] = {}
        """Those with something in them."""

    def of(self, channel: str) -> ChannelMeter:
        """Return the meter of a channel's namespace; the nodes' own channels are not shown."""
        if channel.startswith(INTERNAL_PREFIX):
            return self._internal
        namespace = namespace_of(channel)
        meter = self._namespaces.get(namespace)
        if meter is None:
            meter = self._namespaces[namespace] = ChannelMeter()
        return meter

    def channels_of(self, namespace: str) -> int:
        """Return how many channels of a namespace the node has."""
        meter = self._namespaces.get(namespace)
        return 0 if meter is None else meter.channels

    def count_deliveries(self) -> int:
        """Return the deliveries of all namespaces."""
        return sum(meter.deliveries for meter in self._namespaces.values())

    def count_missed(self) -> dict[str, int]:
        """Return the missed publications by reason, without reasons that never occurred."""
        missed: Counter[str] = Counter()
        for meter in self._namespaces.values():
            missed.update(meter.missed)
        return {reason: count for reason, count in missed.items() if count}

    def read(self) -> Snapshot:
        """Return the values of all meters."""
        meters = list(self._namespaces.items())
        boxes = list(self.outboxes)
        return {
            metrics.SUBSCRIPTIONS.name: {(n,): meter.subscriptions for n, meter in meters},
            metrics.CHANNELS.name: {(n,): meter.channels for n, meter in meters},
            metrics.DELIVERIES.name: {(n,): meter.deliveries for n, meter in meters},
            metrics.DELIVERY_BYTES.name: {(n,): meter.bytes for n, meter in meters},
            metrics.DELIVERY_SECONDS.name: {
                labels: count
                for n, meter in meters
                for labels, count in meter.delays.read((n,)).items()
            },
            metrics.DISCARDED.name: {(n,): meter.discarded for n, meter in meters},
            metrics.EPOCHS_ENDED.name: {(n,): meter.epochs_ended for n, meter in meters},
            metrics.MISSED.name: {
                (n, reason): count for n, meter in meters for reason, count in meter.missed.items()
            },
            metrics.GAPS.name: {
                (n, *kind): count for n, meter in meters for kind, count in meter.gaps.items()
            },
            metrics.OUTBOXES.name: metrics.one(len(boxes)),
            metrics.OUTBOX_BYTES.name: metrics.one(sum(box.bytes for box in boxes)),
        }


def name_outcome(outcome: object) -> str:
    """Return what became of a publication, by its receipt or the exception instead of one."""
    if isinstance(outcome, Receipt):
        return REPEATED if outcome.repeated else PUBLISHED
    if isinstance(outcome, IdempotencyConflict):
        return CONFLICT
    is_known = isinstance(outcome, RealtimeError) and not isinstance(outcome, OutcomeUnknown)
    return NOT_PUBLISHED if is_known else UNKNOWN


Alone = tuple[str, str, int, bool, float]
"""A publication that was sent alone and has a receipt: how it was published, its channel, the bytes
of its body, whether the receipt was a repeated one, and the seconds that it took."""


class PublishMeter:
    """The publications of one event loop, or of all threads, by outcome."""

    def __init__(self) -> None:
        """Start at zero."""
        self._counts: dict[tuple[str, str, str], list[int]] = {}
        """The number and the bytes of the bodies, by namespace, method and outcome."""
        self._seconds: dict[str, Histogram] = {}

    def note(
        self,
        method: str,
        publications: Iterable[Publication],
        outcomes: Iterable[object],
        seconds: float,
    ) -> None:
        """Count publications that were sent together, and how long that took.

        Args:
            method: How they were published; one of our own names.
            publications: All of them.
            outcomes: What became of each: a `Receipt` or an exception.
            seconds: From the check to the answer.
        """
        previous, count = ("", "", ""), [0, 0]
        for publication, outcome in zip(publications, outcomes, strict=False):
            # Little is called here for an ordinary publication: batches have a hundred.
            is_new = isinstance(outcome, Receipt) and not outcome.repeated
            head, colon, _ = publication.channel.partition(":")
            kind = (head, colon, PUBLISHED if is_new else name_outcome(outcome))
            if kind != previous:
                previous = kind
                count = self._count(head if colon else "", method, kind[2])
            count[0] += 1
            count[1] += len(publication.body)
        self._observe(method, seconds)

    def note_alone(self, sent: Iterable[Alone]) -> None:
        """Count publications that were sent one by one."""
        for method, channel, size, is_repeated, seconds in sent:
            name = REPEATED if is_repeated else PUBLISHED
            count = self._count(namespace_of(channel), method, name)
            count[0] += 1
            count[1] += size
            self._observe(method, seconds)

    def _observe(self, method: str, seconds: float) -> None:
        histogram = self._seconds.get(method)
        if histogram is None:
            histogram = self._seconds[method] = Histogram()
        histogram.observe(seconds)

    def count_published(self) -> int:
        """Return how many were published."""
        counts = list(self._counts.items())
        return sum(number for (*_, outcome), (number, _) in counts if outcome == PUBLISHED)

    def _count(self, namespace: str, method: str, outcome: str) -> list[int]:
        """Return a count; others begin at zero with a new one, as the reasons of `ChannelMeter`."""
        count = self._counts.get((namespace, method, outcome))
        if count is not None:
            return count
        for each in OUTCOMES:
            self._counts.setdefault((namespace, method, each), [0, 0])
        return self._counts[namespace, method, outcome]

    def read(self) -> Snapshot:
        """Return the values of all counters."""
        seconds: dict[Labels, float] = {}
        for method, histogram in list(self._seconds.items()):
            seconds |= histogram.read((method,))
        counts = list(self._counts.items())
        sizes: dict[Labels, float] = {}
        for (namespace, _, outcome), (_, size) in counts:
            if outcome == PUBLISHED:
                sizes[namespace,] = sizes.get((namespace,), 0) + size
        return {
            metrics.PUBLISHES.name: {labels: number for labels, (number, _) in counts},
            metrics.PUBLISHED_BYTES.name: sizes,
            metrics.PUBLISH_SECONDS.name: seconds,
        }
