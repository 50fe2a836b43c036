"""After a slow failure, one attempt per rest period; after a success, every call is tried."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from realtime.core.breaker import BREAKER_SECONDS, SLOW_SECONDS, Breaker


def test_a_slow_failure_opens_the_breaker() -> None:
    breaker = Breaker()
    assert breaker.admits(10.0)
    breaker.note_failure(10.0, 11.0)
    assert not breaker.admits(11.0)
    assert not breaker.admits(11.0 + BREAKER_SECONDS - 0.1)
    assert breaker.admits(11.0 + BREAKER_SECONDS)


def test_after_the_rest_one_call_tries_and_the_others_fail_fast() -> None:
    breaker = Breaker()
    breaker.note_failure(10.0, 11.0)
    now = 11.0 + BREAKER_SECONDS
    assert [breaker.admits(now) for _ in range(10)] == [True] + [False] * 9
    breaker.note_success()
    assert all(breaker.admits(now) for _ in range(10))


def test_a_try_that_never_reports_blocks_others_for_one_rest() -> None:
    breaker = Breaker()
    breaker.note_failure(10.0, 11.0)
    now = 11.0 + BREAKER_SECONDS
    assert breaker.admits(now)
    assert not breaker.admits(now + BREAKER_SECONDS - 0.1)
    assert breaker.admits(now + BREAKER_SECONDS)


def test_fast_failures_are_tried_every_time() -> None:
    """A refused connection costs nothing, and the next accepted one shows the recovery."""
    breaker = Breaker()
    for now in range(100):
        assert breaker.admits(now)
        breaker.note_failure(now, now + SLOW_SECONDS / 2)


@given(st.lists(st.floats(0, 3), max_size=200))
def test_time_outs_cost_a_bounded_share_of_the_callers_time(pauses: list[float]) -> None:
    breaker, now, waited = Breaker(), 100.0, 0.0
    for pause in pauses:
        now += pause
        if breaker.admits(now):
            breaker.note_failure(now, now + 1.0)
            now += 1.0
            waited += 1.0
    assert waited <= 1 + (now - 100.0) / (BREAKER_SECONDS + 1.0)
