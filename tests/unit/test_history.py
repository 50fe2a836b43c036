"""The past of a node: bounded, in order, and on moments that all nodes share."""

from __future__ import annotations

from itertools import pairwise

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from realtime.core.history import (
    CHANGES_LIMIT,
    ENTRIES_LIMIT,
    KEPT_SECONDS,
    STEP_SECONDS,
    HistoryEntry,
    NodeHistory,
    StateChange,
    moment_of,
)

START = 1_790_000_000.0


def tick(history: NodeHistory, now: float, deliveries: int = 0) -> None:
    """Do what a node does every second."""
    if history.is_due(now):
        history.note(HistoryEntry(moment_of(now), deliveries, 0, 0, 0.0))


def test_a_day_of_ticks_leaves_a_quarter_of_an_hour() -> None:
    history = NodeHistory()
    for second in range(24 * 3600):
        tick(history, START + second, second)
    now = START + 24 * 3600 - 1
    kept = history.latest(now, 10 * KEPT_SECONDS)
    assert len(kept) == ENTRIES_LIMIT == 180
    assert kept[-1].at == moment_of(now)
    assert {later.at - each.at for each, later in pairwise(kept)} == {STEP_SECONDS}


@given(st.lists(st.floats(-2000, 2000), max_size=400))
def test_moments_ascend_however_the_clock_is_set(steps: list[float]) -> None:
    history, now = NodeHistory(), START
    for step in steps:
        now += step
        tick(history, now)
        kept = history.latest(now, KEPT_SECONDS)
        moments = [entry.at for entry in kept]
        assert moments == sorted(set(moments))
        assert len(kept) <= ENTRIES_LIMIT
        assert moments[-1] == moment_of(now)
        assert not history.is_due(now)


def test_only_the_seconds_that_were_asked_for_are_returned() -> None:
    history = NodeHistory()
    for second in range(60):
        tick(history, START + second)
    assert [entry.at - START for entry in history.latest(START + 59, 15)] == [45, 50, 55]


def test_the_changes_of_state_are_bounded() -> None:
    history = NodeHistory()
    for number in range(3 * CHANGES_LIMIT):
        is_live = number % 2 == 1
        history.note_state(START + number, live=is_live, reason=None if is_live else "away")
    changes = history.changes()
    assert len(changes) == CHANGES_LIMIT
    assert changes[-2:] == [
        StateChange(START + 58, live=False, reason="away"),
        StateChange(START + 59, live=True, reason=""),
    ]


def test_an_entry_is_a_short_array() -> None:
    entry = HistoryEntry(1_790_000_000, 7, 3, 2, 0.0004, {"broker": 1})
    raw = msgspec.json.encode(entry)
    assert raw == b'[1790000000,7,3,2,0.0004,{"broker":1}]'
    assert msgspec.json.decode(raw, type=HistoryEntry) == entry
