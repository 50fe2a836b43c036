"""Pings measure what has not reached the client."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from realtime.flow import (
    OUTSTANDING_PINGS,
    PONG_SECONDS,
    SLOWEST_BYTES_PER_SECOND,
    WINDOW_BYTES,
    Flow,
)

STEP = WINDOW_BYTES // OUTSTANDING_PINGS


def write(flow: Flow, size: int, now: float = 0.0) -> None:
    """Write as the driver does: an early ping when it is wanted."""
    flow.written += size
    if flow.written >= flow.mark and flow.wants_ping:
        flow.pinged(now)


def test_nothing_written_is_nothing_in_flight():
    assert (Flow().in_flight, Flow().congested, Flow().awaits_pong) == (0, False, False)


def test_a_pong_says_that_all_before_its_ping_was_read():
    flow = Flow()
    flow.written = 100
    flow.pinged(0)
    flow.written = 150
    flow.ponged()
    assert flow.in_flight == 50


def test_pongs_answer_pings_in_order():
    flow = Flow()
    for _ in range(3):
        flow.written += 100
        flow.pinged(0)
    flow.ponged()
    assert flow.in_flight == 200
    flow.ponged()
    flow.ponged()
    assert flow.in_flight == 0
    assert not flow.awaits_pong


def test_a_pong_that_answers_nothing_acknowledges_nothing():
    flow = Flow()
    flow.written = 100
    flow.ponged()
    assert flow.in_flight == 100


def test_an_early_ping_is_wanted_each_quarter_of_the_window():
    flow = Flow()
    flow.written = STEP - 1
    assert not flow.wants_ping
    flow.written = STEP
    assert flow.wants_ping
    flow.pinged(0)
    assert not flow.wants_ping
    flow.written += STEP
    assert flow.wants_ping


def test_one_large_write_wants_one_ping():
    flow = Flow()
    flow.written = 3 * STEP
    flow.pinged(0)
    flow.written += 1
    assert not flow.wants_ping


def test_no_early_ping_is_wanted_while_four_are_unanswered():
    flow = Flow()
    for _ in range(OUTSTANDING_PINGS):
        flow.written += STEP
        assert flow.wants_ping
        flow.pinged(0)
    flow.written += STEP
    assert not flow.wants_ping
    flow.ponged()
    assert flow.wants_ping


def test_an_ordinary_ping_puts_the_early_one_off():
    flow = Flow()
    flow.written = STEP - 1
    flow.pinged(0)
    flow.written = STEP
    assert not flow.wants_ping


def test_the_window_itself_is_not_congested():
    flow = Flow(1000)
    flow.written = 1000
    assert not flow.congested
    flow.written = 1001
    assert flow.congested


def test_a_pong_is_due_after_ten_seconds_and_what_is_in_flight_takes_longer():
    flow = Flow()
    flow.written = 5 * SLOWEST_BYTES_PER_SECOND
    flow.pinged(100.0)
    assert not flow.is_overdue(100.0 + PONG_SECONDS + 5)
    assert flow.is_overdue(100.0 + PONG_SECONDS + 5.01)


def test_what_was_acknowledged_gives_no_more_time():
    flow = Flow()
    flow.written = 5 * SLOWEST_BYTES_PER_SECOND
    flow.pinged(0)
    flow.ponged()
    flow.pinged(100.0)
    assert flow.is_overdue(100.0 + PONG_SECONDS + 0.01)


def test_the_oldest_unanswered_ping_is_the_one_that_is_overdue():
    flow = Flow()
    flow.pinged(0)
    flow.pinged(100)
    flow.ponged()
    assert not flow.is_overdue(PONG_SECONDS + 1)
    assert flow.is_overdue(100 + PONG_SECONDS + 1)


def test_who_is_asked_nothing_is_never_overdue():
    assert not Flow().is_overdue(1e9)


@given(
    st.integers(64 * 1024, 4 * WINDOW_BYTES),
    st.lists(st.just("pong") | st.integers(1, 64 * 1024 + 200), max_size=60),
)
def test_the_counters_never_lie(window, steps):
    """A client that answers some pings: never more in flight than written since the newest answered
    ping, never more early pings than allowed, and never congested with nobody to answer."""
    flow = Flow(window)
    pings: list[int] = []
    acked = written = 0
    for step in steps:
        if step == "pong":
            flow.ponged()
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
        flow.ponged()
        acked = pings.pop(0)
    assert not flow.congested
