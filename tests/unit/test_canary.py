"""A missing canary is detected; a late one does not count as missing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.brokers.canary import FLYING_LIMIT, OVERDUE_SECONDS, Canary


def test_a_returning_canary_shows_its_latency():
    canary = Canary()
    canary.note_return(canary.send(10.0), 10.25)
    assert canary.lag_seconds == 0.25
    assert not canary.is_overdue(1e9)


def test_a_missing_canary_is_overdue():
    canary = Canary()
    canary.send(10.0)
    assert not canary.is_overdue(10.0 + OVERDUE_SECONDS)
    assert canary.is_overdue(10.01 + OVERDUE_SECONDS)


def test_every_canary_is_unique():
    canary = Canary()
    assert len({canary.send(0.0) for _ in range(1000)}) == 1000


def test_a_later_canary_answers_all_earlier_ones():
    canary = Canary()
    canary.send(0.0)
    second = canary.send(0.5)
    canary.note_return(second, 0.6)
    assert not canary.is_overdue(1e9)


def test_an_earlier_canary_does_not_answer_a_later_one():
    canary = Canary()
    first = canary.send(0.0)
    canary.send(0.5)
    canary.note_return(first, 0.6)
    assert canary.is_overdue(0.51 + OVERDUE_SECONDS)


def test_an_hour_behind_the_number_of_remembered_canaries_is_bounded():
    canary = Canary()
    *_, last = [canary.send(n / 4) for n in range(4 * 3600)]
    assert len(canary._flying) == FLYING_LIMIT
    assert canary.is_overdue(3600.0)
    canary.note_return(last, 3600.0)
    assert not canary.is_overdue(1e9)
    canary.note_return(canary.send(3601.0), 3601.5)
    assert canary.lag_seconds == 0.5


def test_a_canary_that_returns_twice_counts_once():
    canary = Canary()
    first = canary.send(0.0)
    canary.note_return(first, 0.1)
    canary.note_return(first, 5.0)
    assert canary.lag_seconds == pytest.approx(0.1)


@pytest.mark.parametrize("number", [-1, 0, 2, 10**15])
def test_a_forged_canary_is_ignored(number):
    """Anyone with access to Redis can publish on a node's channel."""
    canary = Canary()
    canary.send(0.0)
    canary.note_return(number, 0.1)
    assert canary.lag_seconds == 0.0
    assert canary.is_overdue(0.1 + OVERDUE_SECONDS)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 0.5)), max_size=30))
def test_overdue_matches_a_list_of_unanswered_canaries(steps):
    canary, now = Canary(), 0.0
    away: list[tuple[int, float]] = []
    for sends, pause in steps:
        now += pause
        if sends:
            away.append((canary.send(now), now))
        elif away:
            canary.note_return(away.pop(0)[0], now)
        assert canary.is_overdue(now) == any(now - sent > OVERDUE_SECONDS for _, sent in away)
