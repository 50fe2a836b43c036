"""Pings measure what has not reached the client."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from realtime.connection.flow import (
    OUTSTANDING_PINGS,
    PONG_SECONDS,
    SLOWEST_BYTES_PER_SECOND,
    WINDOW_BYTES,
    Flow,
)

STEP = WINDOW_BYTES // OUTSTANDING_PINGS


def write(flow: Flow, size: int, now: float = 0.0) -> None:
    """Write like the writer: send an early ping when it is due."""
    flow.written += size
    if flow.written >= flow.mark and flow.wants_ping:
        flow.note_ping(now)


def test_nothing_written_is_nothing_in_flight():
    assert (Flow().in_flight, Flow().congested, Flow().awaits_pong) == (0, False, False)


def test_a_pong_acknowledges_everything_before_its_ping():
    flow = Flow()
    flow.written = 100
    flow.note_ping(0)
    flow.written = 150
    flow.note_pong()
    assert flow.in_flight == 50


def test_pongs_answer_pings_in_order():
    flow = Flow()
    for _ in range(3):
        flow.written += 100
        flow.note_ping(0)
    flow.note_pong()
    assert flow.in_flight == 200
    flow.note_pong()
    flow.note_pong()
    assert flow.in_flight == 0
    assert not flow.awaits_pong


def test_an_unsolicited_pong_acknowledges_nothing():
    flow = Flow()
    flow.written = 100
    flow.note_pong()
    assert flow.in_flight == 100


def test_an_early_ping_is_due_every_quarter_of_the_window():
    flow = Flow()
    flow.written = STEP - 1
    assert not flow.wants_ping
    flow.written = STEP
    assert flow.wants_ping
    flow.note_ping(0)
    assert not flow.wants_ping
    flow.written += STEP
    assert flow.wants_ping


def test_one_large_write_needs_one_ping():
    flow = Flow()
    flow.written = 3 * STEP
    flow.note_ping(0)
    flow.written += 1
    assert not flow.wants_ping


def test_no_early_ping_is_due_while_four_are_unanswered():
    flow = Flow()
    for _ in range(OUTSTANDING_PINGS):
        flow.written += STEP
        assert flow.wants_ping
        flow.note_ping(0)
    flow.written += STEP
    assert not flow.wants_ping
    flow.note_pong()
    assert flow.wants_ping


def test_an_ordinary_ping_postpones_the_early_one():
    flow = Flow()
    flow.written = STEP - 1
    flow.note_ping(0)
    flow.written = STEP
    assert not flow.wants_ping


def test_the_window_itself_is_not_congested():
    flow = Flow(1000)
    flow.written = 1000
    assert not flow.congested
    flow.written = 1001
    assert flow.congested


def test_the_pong_deadline_grows_with_the_bytes_in_flight():
    flow = Flow()
    flow.written = 5 * SLOWEST_BYTES_PER_SECOND
    flow.note_ping(100.0)
    assert not flow.is_overdue(100.0 + PONG_SECONDS + 5)
    assert flow.is_overdue(100.0 + PONG_SECONDS + 5.01)


def test_acknowledged_bytes_do_not_extend_the_deadline():
    flow = Flow()
    flow.written = 5 * SLOWEST_BYTES_PER_SECOND
    flow.note_ping(0)
    flow.note_pong()
    flow.note_ping(100.0)
    assert flow.is_overdue(100.0 + PONG_SECONDS + 0.01)


def test_the_oldest_unanswered_ping_decides_the_deadline():
    flow = Flow()
    flow.note_ping(0)
    flow.note_ping(100)
    flow.note_pong()
    assert not flow.is_overdue(PONG_SECONDS + 1)
    assert flow.is_overdue(100 + PONG_SECONDS + 1)


def test_a_client_without_a_ping_is_never_overdue():
    assert not Flow().is_overdue(1e9)


@given(
    st.integers(64 * 1024, 4 * WINDOW_BYTES),
    st.lists(st.just("pong") | st.integers(1, 64 * 1024 + 200), max_size=60),
)
def test_the_counters_are_always_consistent(window, steps):
    """The counters stay consistent for a client that answers only some pings.

    Never is more in flight than was written since the newest answered ping, never are more early
    pings sent than allowed, and a connection is never congested without an unanswered ping.
    """
    flow = Flow(window)
    pings: list[int] = []
    acked = written = 0
    for step in steps:
        if step == "pong":
            flow.note_pong()
            acked = pings.pop(0) if pings else acked
        elif not flow.congested:
            written += step
            before = flow.mark
            write(flow, step)
            if flow.mark != before:
                pings.append(written)
        assert flow.in_flight == written - acked >= 0
        assert flow.awaits_pong == bool(pings)
        assert len(pings) <= OUTSTANDING_PINGS
        assert flow.awaits_pong or not flow.congested
    while pings:
        flow.note_pong()
        acked = pings.pop(0)
    assert not flow.congested
