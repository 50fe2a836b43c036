"""Snapshots of metrics: they survive encoding, and those of several processes add up."""

from __future__ import annotations

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.core import metrics
from realtime.core.meters import OUTCOMES, ChannelMeter, Histogram, NodeMeters, PublishMeter
from realtime.core.metrics import (
    METRICS,
    InvalidSnapshot,
    MetricKind,
    MetricMerge,
    add_up,
    decode_snapshot,
    encode_snapshot,
    without_gauges,
)
from realtime.core.positions import Gap
from realtime.core.publication import Publication, Receipt
from realtime.errors import BrokerUnavailable, IdempotencyConflict, OutcomeUnknown, QueueFull
from realtime.wiring.metering import AT_ONCE, LockedMeter

LABELS = st.text(alphabet='abc:é"\\\n', max_size=8)
VALUES = st.integers(0, 2**40).map(float)


@st.composite
def snapshots(draw: st.DrawFn) -> metrics.Snapshot:
    chosen = draw(st.lists(st.sampled_from(METRICS), unique=True, max_size=6))
    return {
        metric.name: draw(
            st.dictionaries(st.tuples(*[LABELS for _ in metric.labels]), VALUES, max_size=3)
        )
        for metric in chosen
    }


@given(snapshots())
def test_a_snapshot_survives_its_encoding_on_one_line(snapshot):
    raw = encode_snapshot(snapshot)
    assert b"\n" not in raw
    assert decode_snapshot(raw) == snapshot


@given(st.lists(snapshots(), max_size=4))
def test_the_order_of_the_processes_does_not_matter(several):
    assert add_up(several) == add_up(reversed(several))


@given(st.lists(snapshots(), max_size=4), st.lists(snapshots(), max_size=4))
def test_sums_can_be_added_up_again(some, others):
    assert add_up([add_up(some), add_up(others)]) == add_up([*some, *others])


@given(snapshots(), snapshots())
def test_a_counter_never_falls_when_a_process_ends(ended, running):
    before, after = add_up([ended, running]), add_up([without_gauges(ended), running])
    for metric in METRICS:
        if metric.kind is not MetricKind.GAUGE and metric.name in before:
            assert after[metric.name] == before[metric.name]


def test_the_largest_of_several_is_told_where_a_sum_makes_no_sense():
    lag = metrics.LAG.name
    assert add_up([{lag: {(): 0.1}}, {lag: {(): 0.3}}]) == {lag: {(): 0.3}}


def test_a_metric_of_a_newer_version_is_skipped():
    assert add_up([{"realtime_of_tomorrow": {(): 1.0}}]) == {}


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[]", b'{"a":1}', b'{"a":[[1,2]]}', b'{"a":[[["x"],"y"]]}', b"\xff", b"[" * 9999],
)
def test_other_bytes_are_no_snapshot(raw):
    with pytest.raises(InvalidSnapshot):
        decode_snapshot(raw)


def test_names_follow_the_conventions_of_openmetrics():
    for metric in METRICS:
        assert re.fullmatch(r"realtime_[a-z]+(_[a-z]+)*", metric.name)
        assert not metric.name.endswith("_total")
        assert metric.help.endswith(".")
        assert metric.kind is not MetricKind.HISTOGRAM or metric.across is MetricMerge.SUM
    assert len({metric.name for metric in METRICS}) == len(METRICS)


def test_the_totals_of_a_node_are_over_all_namespaces():
    meters, published = NodeMeters(), PublishMeter()
    meters.of("a:x").count_deliveries(2, 10, 3)
    meters.of("b:x").count_deliveries(1, 10, 1)
    meters.of("b:x").count_gap(Gap("e", 3, 5), "slow", 2)
    meters.of("!node").count_deliveries(9, 1, 1)
    assert meters.count_deliveries() == 7
    assert meters.count_missed() == {"slow": 6}
    outcomes = [Receipt("e", 1, 1), OutcomeUnknown("late"), BrokerUnavailable("away")]
    published.note("http", [news("a:x")] * 3, outcomes, 0.1)
    published.note("python", [news("b:x")], [Receipt("e", 1, 1)], 0.1)
    assert published.count_published() == 2


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 99), st.integers(0, 9))))
def test_deliveries_are_publications_times_listeners(runs):
    meter = ChannelMeter()
    for publications, size, listeners in runs:
        meter.count_deliveries(publications, size, listeners)
    assert meter.deliveries == sum(publications * listeners for publications, _, listeners in runs)
    assert meter.bytes == sum(size * listeners for _, size, listeners in runs)


def test_a_gap_with_an_open_end_counts_as_a_gap_but_not_as_a_number():
    meter = ChannelMeter()
    meter.count_gap(Gap("e", 3, 5), "slow", listeners=2)
    meter.count_gap(Gap("e", 6, None), "broker")
    assert {reason: n for reason, n in meter.missed.items() if n} == {"slow": 6}
    assert {kind: n for kind, n in meter.gaps.items() if n} == {
        ("slow", "known"): 2,
        ("broker", "open"): 1,
    }


def test_every_reason_of_a_loss_is_shown_before_it_happens():
    """Prometheus takes the first value of a series as its start, not as an increase."""
    meters = NodeMeters()
    meters.of("orders:1")
    shown = meters.read()
    reasons = ("broker", "slow", "reconnect")
    assert shown[metrics.MISSED.name] == {("orders", reason): 0 for reason in reasons}
    assert shown[metrics.GAPS.name] == {
        ("orders", reason, end): 0 for reason in reasons for end in ("known", "open")
    }


def test_channels_of_a_namespace_share_a_meter_and_those_of_the_nodes_are_not_shown():
    meters = NodeMeters()
    assert meters.of("orders:1") is meters.of("orders:2") is not meters.of("chat:1")
    meters.of("!all").channels += 1
    assert set(meters.read()[metrics.CHANNELS.name]) == {("orders",), ("chat",)}


@given(st.lists(st.floats(-1, 10)))
def test_a_histogram_counts_each_observation_once(values):
    histogram = Histogram()
    for value in values:
        histogram.observe(value)
    found = histogram.read(("http",))
    counts = {bound: count for (_, bound), count in found.items() if bound != metrics.SUM}
    assert sum(counts.values()) == len(values)
    for bound in metrics.SECONDS:
        below = sum(counts[str(each)] for each in metrics.SECONDS if each <= bound)
        assert below == sum(value <= bound for value in values)
    assert found["http", metrics.SUM] == pytest.approx(sum(max(0.0, value) for value in values))


def news(channel: str) -> Publication:
    return Publication.of(channel, 1)


@pytest.mark.parametrize(
    ("outcome", "name"),
    [
        (Receipt("e", 1, 1), "published"),
        (Receipt("e", 1, 1, repeated=True), "repeated"),
        (BrokerUnavailable("away"), "not_published"),
        (QueueFull("full"), "not_published"),
        (OutcomeUnknown("late"), "unknown"),
        (IdempotencyConflict("other"), "conflict"),
        (asyncio.CancelledError(), "unknown"),
        (None, "unknown"),
    ],
)
def test_publications_are_counted_by_outcome_and_every_outcome_is_shown(outcome, name):
    meter = PublishMeter()
    meter.note("http", [news("orders:1")], [outcome], 0.003)
    shown = meter.read()
    assert shown[metrics.PUBLISHES.name] == {
        ("orders", "http", each): int(each == name) for each in OUTCOMES
    }
    sent = len(news("orders:1").body) if name == "published" else 0
    assert shown[metrics.PUBLISHED_BYTES.name] == {("orders",): sent}
    assert shown[metrics.PUBLISH_SECONDS.name]["http", "0.005"] == 1


def test_publications_sent_alone_are_counted_as_in_a_list():
    publications = [news("orders:1"), news("plain"), news("orders:2")]
    receipts = [Receipt("e", 1, 1), Receipt("e", 2, 1), Receipt("e", 3, 1, repeated=True)]
    one_by_one, in_lists = PublishMeter(), PublishMeter()
    one_by_one.note_alone(
        ("http", each.channel, len(each.body), receipt.repeated, 0.01)
        for each, receipt in zip(publications, receipts, strict=True)
    )
    for each, receipt in zip(publications, receipts, strict=True):
        in_lists.note("http", [each], [receipt], 0.01)
    assert one_by_one.read() == in_lists.read()
    assert one_by_one.count_published() == 2


def test_what_iswritten_down_is_counted_for_whoever_reads():
    meter = LockedMeter()
    for number in range(1, 2 * AT_ONCE):
        meter.note_receipt("http", news("orders:1"), Receipt("e", number, 1), 0.01)
        assert len(meter.written_down) < AT_ONCE
        if number % 100 == 0:
            assert meter.count_published() == number
    assert meter.read()[metrics.PUBLISHES.name]["orders", "http", "published"] == 2 * AT_ONCE - 1


def test_no_publication_is_counted_twice_or_not_at_all_while_threads_read():
    meter, times, threads = LockedMeter(), 20 * AT_ONCE, 4

    def publish() -> list[int]:
        seen = []
        for number in range(times):
            meter.note_receipt("http", news("orders:1"), Receipt("e", number, 1), 0.01)
            if number % 50 == 0:
                seen.append(meter.count_published())
        return seen

    with ThreadPoolExecutor(threads) as pool:
        for seen in [each.result() for each in [pool.submit(publish) for _ in range(threads)]]:
            assert seen == sorted(seen)
    assert meter.count_published() == times * threads


def test_a_batch_counts_each_publication_and_its_time_once():
    meter = PublishMeter()
    batch = [news("orders:1"), news("orders:2"), news("plain")]
    meter.note("http", batch, [Receipt("e", 1, 1), Receipt("e", 1, 1), OutcomeUnknown("late")], 1)
    shown = meter.read()
    assert shown[metrics.PUBLISHES.name]["orders", "http", "published"] == 2
    assert shown[metrics.PUBLISHES.name]["", "http", "unknown"] == 1
    assert shown[metrics.PUBLISH_SECONDS.name]["http", "1.0"] == 1


def test_a_batch_that_failed_as_a_whole_failed_for_each_publication():
    meter = PublishMeter()
    meter.note("http", [news("a:1"), news("a:2")], repeat(BrokerUnavailable("away")), 0.1)
    assert meter.read()[metrics.PUBLISHES.name]["a", "http", "not_published"] == 2
