"""Frequent events are logged rarely, and always counted."""

from __future__ import annotations

from realtime.core.tally import LOG_EVERY_SECONDS, Tally


def test_a_reason_is_logged_at_once_and_then_once_a_minute() -> None:
    tally = Tally()
    assert tally.add("a", 10.0) == 1
    assert [tally.add("a", 10.0 + n) for n in range(50)] == [None] * 50
    assert tally.add("a", 10.0 + LOG_EVERY_SECONDS) == 52
    assert tally.add("a", 11.0 + LOG_EVERY_SECONDS) is None


def test_each_reason_is_counted_separately() -> None:
    tally = Tally()
    assert (tally.add("a", 0.0), tally.add("b", 0.0), tally.add("a", 1.0)) == (1, 1, None)
