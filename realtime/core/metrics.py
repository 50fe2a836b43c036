"""The metrics of a process: their names, and how snapshots of several processes are added up.

A *snapshot* has the values of all metrics at one moment: by name of the metric, and within it by
the values of its labels. Names follow the conventions of OpenMetrics. docs/metrics.md explains them
to operators. No clock and no I/O.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec

Labels = tuple[str, ...]
"""The values of a metric's labels, in the order of `Metric.labels`."""
Snapshot = dict[str, dict[Labels, float]]
"""By name of the metric. A histogram's labels end in a bound, or in `SUM`."""

SUM = "sum"
"""In place of a bound: the sum of all observations of a histogram."""
INFINITE = "+Inf"
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Upper bounds of the histograms: from a publish on a quiet machine to the longest time-out."""
SNAPSHOT_BYTES = 16 * 1024 * 1024
"""Maximum size of an encoded snapshot: 1,000 namespaces take 1.5 MB."""


class MetricKind(StrEnum):
    """The type of a metric, as in OpenMetrics."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class MetricMerge(StrEnum):
    """What the values of several processes are together."""

    SUM = "sum"
    MOST = "max"
    """The largest: of delays, and of values that all processes read from the same Redis."""


class Metric(NamedTuple):
    """The declaration of one metric."""

    name: str
    """Without the suffix ``_total`` of a counter."""
    kind: MetricKind
    help: str
    labels: tuple[str, ...] = ()
    across: MetricMerge = MetricMerge.SUM


def _counter(name: str, text: str, *labels: str, across: MetricMerge = MetricMerge.SUM) -> Metric:
    return Metric(f"realtime_{name}", MetricKind.COUNTER, text, labels, across)


def _gauge(name: str, text: str, *labels: str, across: MetricMerge = MetricMerge.SUM) -> Metric:
    return Metric(f"realtime_{name}", MetricKind.GAUGE, text, labels, across)


def _histogram(name: str, text: str, *labels: str) -> Metric:
    return Metric(f"realtime_{name}", MetricKind.HISTOGRAM, text, labels)


WORKERS = _gauge("workers", "Worker processes of the launcher that answers.")
WORKER_STARTS = _counter("worker_starts", "How many workers the launcher has started.")
NODES = _gauge("nodes", "Nodes: event loops that serve clients.")
NODES_LIVE = _gauge("nodes_live", "Nodes that receive every publication, as far as they know.")
LOST_CHANNELS = _gauge(
    "lost_channels", "Channels that do not arrive because their Redis Cluster master is away."
)
OUTAGES = _counter("outages", "How often a live node stopped being live.")
REDIS_CONNECTIONS = _counter(
    "subscriber_connections", "How often a node has connected to Redis to subscribe."
)
LAG = _gauge(
    "broker_lag_seconds",
    "Latest round trip of a canary: from a node through Redis back to it.",
    across=MetricMerge.MOST,
)
LOOP_LAG = _gauge(
    "event_loop_lag_seconds",
    "How late the last tick of a node was; ticks are a second apart.",
    across=MetricMerge.MOST,
)
CONNECTIONS = _gauge("connections", "Connected clients.", "transport")
USERS = _gauge("users", "Users with at least one connection, on each node.")
SUBSCRIPTIONS = _gauge("subscriptions", "Subscriptions of clients to channels.", "namespace")
CHANNELS = _gauge("channels", "Channels with a subscriber, on each node.", "namespace")
MEMBERS = _gauge("presence_members", "Members of channels that this node reports to Redis.")
OUTBOXES = _gauge("congested_connections", "Connections with something waiting in their outbox.")
OUTBOX_BYTES = _gauge("outbox_bytes", "Bytes that wait in the outboxes.")
DELIVERIES = _counter(
    "deliveries",
    "Publications times subscribers: written to a connection, or stored in its outbox.",
    "namespace",
)
DELIVERY_SECONDS = _histogram(
    "delivery_seconds",
    "Time of a publication until it is written to its last subscriber, per node. It begins when "
    "our code accepts it, by the publisher's clock, which has a resolution of 1 ms.",
    "namespace",
)
DELIVERY_BYTES = _counter("delivery_bytes", "Bytes of the deliveries.", "namespace")
MISSED = _counter(
    "missed_publications",
    "Publications that a client was told it missed, if their number is known.",
    *("namespace", "reason"),
)
GAPS = _counter(
    "gaps",
    "Gaps: with a known end, or open because an epoch ended and nobody knows its last offset.",
    *("namespace", "reason", "end"),
)
DISCARDED = _counter(
    "discarded_publications",
    "Publications in the outboxes of connections that ended; told as a gap after a reconnect.",
    "namespace",
)
EPOCHS_ENDED = _counter(
    "epochs_ended",
    "Channels whose epoch ended while a node was subscribed: Redis lost or replaced a counter.",
    "namespace",
)
DROPPED = _counter("dropped_envelopes", "Messages from Redis that are not envelopes.")
PUBLISHES = _counter(
    "publishes",
    "Publications by outcome: published, repeated, not_published, unknown, conflict.",
    *("namespace", "method", "outcome"),
)
PUBLISHED_BYTES = _counter("published_bytes", "Bytes of the publications sent.", "namespace")
PUBLISH_SECONDS = _histogram(
    "publish_seconds", "Time of a publish, from the check to the answer of Redis.", "method"
)
LIMITS = _counter("limits_reached", "How often a limit was reached.", "limit")
REFUSED_REQUESTS = _counter("refused_requests", "Failed requests to the HTTP API.", "reason")
REFUSED_TOKENS = _counter("refused_tokens", "Refused tokens of clients.", "reason")

QUEUE_ENTRIES = _gauge(
    "fallback_entries",
    "Entries of the fallback queue: waiting, in_hand, later (failed, to be retried), dead.",
    "state",
    across=MetricMerge.MOST,
)
QUEUE_BYTES = _gauge("fallback_bytes", "Bytes of the fallback queue.", across=MetricMerge.MOST)
QUEUE_OLDEST = _gauge(
    "fallback_oldest_seconds", "Age of the oldest waiting entry.", across=MetricMerge.MOST
)
QUEUE_HANDS = _gauge(
    "fallback_hands",
    "Entries that the workers can handle at the same time.",
    across=MetricMerge.MOST,
)
QUEUE_ATTEMPTS = _counter(
    "fallback_attempts",
    "Attempts to handle an entry: handled, retried, taken_over from a dead worker, given_up.",
    "result",
    across=MetricMerge.MOST,
)
CPU_SECONDS = _counter("process_cpu_seconds", "CPU time of the processes.")
MEMORY = _gauge("process_resident_bytes", "Resident memory of the processes; only on Linux.")
FILES = _gauge("process_open_files", "Open files and sockets of the processes; only on Linux.")

METRICS = (
    *(WORKERS, WORKER_STARTS),
    *(NODES, NODES_LIVE, LOST_CHANNELS, OUTAGES, REDIS_CONNECTIONS, LAG, LOOP_LAG),
    *(CONNECTIONS, USERS, SUBSCRIPTIONS, CHANNELS, MEMBERS, OUTBOXES, OUTBOX_BYTES),
    *(DELIVERIES, DELIVERY_BYTES, DELIVERY_SECONDS, MISSED, GAPS, DISCARDED, EPOCHS_ENDED, DROPPED),
    *(PUBLISHES, PUBLISHED_BYTES, PUBLISH_SECONDS),
    *(LIMITS, REFUSED_REQUESTS, REFUSED_TOKENS),
    *(QUEUE_ENTRIES, QUEUE_BYTES, QUEUE_OLDEST, QUEUE_HANDS, QUEUE_ATTEMPTS),
    *(CPU_SECONDS, MEMORY, FILES),
)
"""All metrics, in the order in which they are shown."""
BY_NAME = {metric.name: metric for metric in METRICS}

PROBE_PUBLISHES = _counter(
    "probe_publishes",
    "Publications of the probe by outcome: published, not_published, unknown.",
    "outcome",
)
PROBE_RECEIVED = _counter("probe_received", "Publications that reached a listener of the probe.")
PROBE_MISSED = _counter(
    "probe_missed", "Publications that a listener of the probe was told it missed.", "reason"
)
PROBE_SILENT = _counter(
    "probe_silent_losses",
    "Publications that a listener neither received nor was told of. Must stay 0.",
)
PROBE_LISTENERS = _gauge("probe_listeners", "Listeners of the probe.")
PROBE_LIVE = _gauge("probe_listeners_live", "Listeners that are connected to a live node.")
PROBE_SECONDS = _histogram(
    "probe_seconds", "Time from the probe's HTTP request until a listener has the publication."
)
PROBE_METRICS = (
    *(PROBE_PUBLISHES, PROBE_RECEIVED, PROBE_MISSED, PROBE_SILENT),
    *(PROBE_LISTENERS, PROBE_LIVE, PROBE_SECONDS),
)
"""The metrics of `manage.py probe`, a process of its own."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, list[tuple[list[str], float]]]).decode


class InvalidSnapshot(Exception):
    """The bytes are not a snapshot of this service."""


def add_up(snapshots: Iterable[Mapping[str, Mapping[Labels, float]]]) -> Snapshot:
    """Return the snapshot of several processes together; metrics of newer versions are skipped."""
    total: Snapshot = {}
    for snapshot in snapshots:
        for name, values in snapshot.items():
            if (metric := BY_NAME.get(name)) is None:
                continue
            sums = total.setdefault(name, {})
            for labels, value in values.items():
                if metric.across is MetricMerge.MOST:
                    sums[labels] = max(sums.get(labels, value), value)
                else:
                    sums[labels] = sums.get(labels, 0) + value
    return total


def without_gauges(snapshot: Mapping[str, Mapping[Labels, float]]) -> Snapshot:
    """Return what is left of a process that has ended: what it has counted, not what it had."""
    return {
        name: dict(values)
        for name, values in snapshot.items()
        if name in BY_NAME and BY_NAME[name].kind is not MetricKind.GAUGE
    }


ALL_NAMESPACES = "*"
"""In place of a namespace: the sum over all of them. No namespace has this name."""


def fold_namespaces(snapshot: Mapping[str, Mapping[Labels, float]]) -> Snapshot:
    """Return a snapshot whose values are summed over the namespaces, of which there may be many."""
    folded: Snapshot = {}
    for name, values in snapshot.items():
        metric = BY_NAME.get(name)
        if metric is None or "namespace" not in metric.labels:
            folded[name] = dict(values)
            continue
        place = metric.labels.index("namespace")
        sums = folded[name] = {}
        for labels, value in values.items():
            key = (*labels[:place], ALL_NAMESPACES, *labels[place + 1 :])
            sums[key] = sums.get(key, 0) + value
    return folded


def encode_snapshot(snapshot: Mapping[str, Mapping[Labels, float]]) -> bytes:
    """Encode a snapshot as one line of JSON."""
    return _encode(
        {
            name: [(list(labels), value) for labels, value in values.items()]
            for name, values in snapshot.items()
        }
    )


def decode_snapshot(raw: bytes) -> Snapshot:
    """Decode a snapshot.

    Raises:
        InvalidSnapshot: The bytes are not one.
    """
    try:
        named: Mapping[str, Sequence[tuple[list[str], float]]] = _decode(raw)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise InvalidSnapshot(str(error)) from error
    return {
        name: {tuple(labels): value for labels, value in values} for name, values in named.items()
    }


def one(value: float) -> dict[Labels, float]:
    """Return the value of a metric without labels."""
    return {(): value}


def by_label(values: Mapping[Any, float]) -> dict[Labels, float]:
    """Return the values of a metric with one label."""
    return {(str(label),): value for label, value in values.items()}
