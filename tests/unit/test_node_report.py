"""Reports of nodes: they survive their encoding, and their size is bounded."""

from __future__ import annotations

import pytest

from realtime.core import metrics
from realtime.core.history import (
    CHANGES_LIMIT,
    ENTRIES_LIMIT,
    KEPT_SECONDS,
    HistoryEntry,
    StateChange,
)
from realtime.core.meters import NodeMeters, PublishMeter
from realtime.core.metrics import ALL_NAMESPACES, Snapshot, fold_namespaces
from realtime.core.node_report import (
    REPORT_BYTES,
    NodeFacts,
    NodeReport,
    encode_report,
    reports_of,
    seconds_of,
)
from realtime.core.publication import Publication, Receipt
from realtime.core.survey import Question, decode_question, encode_question
from realtime.delivery.liveness import UNHEARD

LARGE = 2**53 - 1
FACTS = NodeFacts("0" * 16, f"{'h' * 64}_4194304", "0.1.0", LARGE, live=True, reason="")


def report(snapshot: Snapshot, history: int = 0, changes: int = 0) -> NodeReport:
    missed = dict.fromkeys(("broker", "slow", "reconnect"), LARGE)
    entry = HistoryEntry(LARGE, LARGE, LARGE, LARGE, 123.456789, missed)
    change = StateChange(1_790_000_000.123, live=False, reason=UNHEARD)
    return NodeReport(FACTS, snapshot, [entry] * history, [change] * changes)


def meters_of(namespaces: int) -> Snapshot:
    meters, published = NodeMeters(), PublishMeter()
    for number in range(namespaces):
        meters.of(f"namespace{number}:x").count_deliveries(LARGE, 1, 1)
        for method in ("http", "client", "python"):
            publication = Publication.of(f"namespace{number}:x", 1)
            published.note(method, [publication], [Receipt("e", 1, 1)], 0.1)
    return {**meters.read(), **published.read()}


def test_a_report_survives_its_encoding() -> None:
    sent = report({metrics.NODES.name: {(): 1.0}}, history=2, changes=1)
    assert reports_of([encode_report(sent)]) == [sent]


def test_a_thousand_namespaces_make_no_report_larger() -> None:
    sizes = {len(encode_report(report(meters_of(number)))) // 1024 for number in (1, 1000)}
    assert len(sizes) == 1
    [found] = reports_of([encode_report(report(meters_of(1000)))])
    assert found.snapshot[metrics.DELIVERIES.name] == {(ALL_NAMESPACES,): 1000.0 * LARGE}


def test_the_largest_report_is_within_its_limit() -> None:
    snapshot = meters_of(3)
    for metric in metrics.METRICS:
        if metric.name not in snapshot:
            names = [f"one of our own names {number}" for number in range(30)]
            values = {(name,) * len(metric.labels): float(LARGE) for name in names}
            snapshot[metric.name] = values
    largest = encode_report(report(snapshot, ENTRIES_LIMIT, CHANGES_LIMIT))
    assert len(largest) <= REPORT_BYTES


def test_a_field_of_a_newer_version_is_skipped() -> None:
    raw = encode_report(report({}, history=1))
    later = raw.replace(b'"uptime"', b'"mood":"good","uptime"').replace(b"}]],", b"},7]],")
    assert len(later) > len(raw) + 10
    assert reports_of([later]) == reports_of([raw])


@pytest.mark.parametrize(
    "raw",
    [b"", b"{}", b"[]", b"\xff", b"[" * 9999, encode_report(report({})) + b" " * REPORT_BYTES],
)
def test_other_answers_are_skipped(raw: bytes) -> None:
    valid = encode_report(report({}))
    assert len(reports_of([raw, valid])) == 1


def test_a_question_may_limit_the_past() -> None:
    assert decode_question(encode_question(Question("0" * 16, "metrics", "15"))) is not None
    assert seconds_of("15") == 15
    for pattern in ("", "-1", "901", "9" * 200, "x", "²"):
        assert seconds_of(pattern) == KEPT_SECONDS


def test_folding_sums_over_namespaces_and_nothing_else() -> None:
    missed = metrics.MISSED.name
    folded = fold_namespaces(
        {
            missed: {("a", "slow"): 1, ("b", "slow"): 2, ("a", "broker"): 3},
            metrics.CONNECTIONS.name: {("websocket",): 4},
            "realtime_of_tomorrow": {("a",): 5},
        }
    )
    assert folded == {
        missed: {("*", "slow"): 3, ("*", "broker"): 3},
        metrics.CONNECTIONS.name: {("websocket",): 4},
        "realtime_of_tomorrow": {("a",): 5},
    }
