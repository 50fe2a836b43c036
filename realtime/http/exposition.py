"""Writes snapshots of metrics in the text formats of Prometheus and OpenMetrics.

Needs the extra ``metrics``: prometheus-client writes the formats, and chooses one by what the
scraper accepts. The numbers are ours (`realtime.core.metrics`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from hmac import compare_digest

from prometheus_client.core import (
    CollectorRegistry,
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from realtime.core.metrics import (
    INFINITE,
    METRICS,
    PROBE_METRICS,
    SECONDS,
    SUM,
    Labels,
    MetricKind,
    Snapshot,
)

_BOUNDS = [*map(str, SECONDS), INFINITE]
_Values = Mapping[Labels, float]


def families(snapshot: Snapshot) -> Iterator[Metric]:
    """Yield the metrics of a snapshot as prometheus-client represents them."""
    for metric in (*METRICS, *PROBE_METRICS):
        values = snapshot.get(metric.name)
        if values is None:
            continue
        if metric.kind is MetricKind.HISTOGRAM:
            yield _histogram(metric.name, metric.help, metric.labels, values)
            continue
        family: CounterMetricFamily | GaugeMetricFamily
        if metric.kind is MetricKind.COUNTER:
            family = CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
        else:
            family = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
        for labels, value in sorted(values.items()):
            family.add_metric(labels, value)
        yield family


def _histogram(name: str, text: str, labels: Iterable[str], values: _Values) -> Metric:
    family = HistogramMetricFamily(name, text, labels=list(labels))
    for own in sorted({given[:-1] for given in values}):
        total, buckets = 0.0, []
        for bound in _BOUNDS:  # each bucket includes those below it
            total += values.get((*own, bound), 0)
            buckets.append((bound, total))
        family.add_metric(own, buckets, values.get((*own, SUM), 0))
    return family


def exposition(snapshot: Snapshot, accept: str) -> tuple[bytes, str]:
    """Return the text of a snapshot and its content type.

    Args:
        snapshot: What to write.
        accept: The ``Accept`` header of the scraper; empty for the text format of Prometheus.
    """
    encode, content_type = choose_encoder(accept)
    return encode(registry_of(lambda: snapshot)), content_type


def registry_of(read: Callable[[], Snapshot]) -> CollectorRegistry:
    """Return a registry that reads a snapshot whenever it is asked."""
    registry = CollectorRegistry()
    registry.register(_SnapshotCollector(read))
    return registry


class _SnapshotCollector(Collector):
    def __init__(self, read: Callable[[], Snapshot]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        return families(self._read())


def bearer_matches(header: str, key: str) -> bool:
    """Tell whether an ``Authorization`` header has this key as its bearer token (RFC 6750)."""
    scheme, _, given = header.partition(" ")
    return scheme.lower() == "bearer" and compare_digest(given.strip().encode(), key.encode())
