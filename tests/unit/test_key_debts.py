"""A key over its rate is refused before its body is read, until its debt is paid."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.api.key_debts import KeyDebts
from realtime.api.keys import Key


@given(st.floats(0.001, 1000), st.integers(1, 100), st.floats(0, 1e6), st.floats(0.001, 100))
def test_no_request_is_refused_that_redis_would_allow(rate, count, now, owed):
    """As take_from_rate.lua calculates: `paid` is the time until which the key is in debt."""
    slow, remembered = Key("slow", b"", rate=rate), KeyDebts()
    burst = max(1.0, rate)
    wait = owed - (burst - min(burst, count)) / rate
    if wait > 0:
        remembered.note_refusal(slow, count, wait, now)
        for_one = owed - (burst - 1) / rate
        assert remembered.wait(slow, now) <= max(0.0, for_one) + 1e-6
    assert remembered.wait(slow, now + owed) <= 1e-6


def test_a_flood_of_large_bodies_is_refused_unread():
    slow, other, remembered = Key("slow", b"", rate=1.0), Key("other", b"", rate=1.0), KeyDebts()
    remembered.note_refusal(slow, 100, 99.0, now=7.0)
    assert remembered.wait(slow, 8.0) == pytest.approx(98.0)
    assert remembered.wait(other, 8.0) == 0.0
    assert remembered.wait(slow, 106.1) == 0.0


def test_a_changed_rate_clears_the_debt():
    remembered = KeyDebts()
    remembered.note_refusal(Key("slow", b"", rate=1.0), 1, 99.0, now=7.0)
    assert remembered.wait(Key("slow", b"", rate=2.0), 8.0) == 0.0


def test_a_refused_large_batch_does_not_block_small_requests():
    fast, remembered = Key("fast", b"", rate=10.0), KeyDebts()
    remembered.note_refusal(fast, 100, 0.5, now=7.0)  # it owes half a second, and may owe 0.9
    assert remembered.wait(fast, 7.0) == 0.0


@given(st.floats(0.01, 1000), st.floats(0, 1e6), st.lists(st.floats(0, 5), max_size=60))
def test_invalid_requests_have_the_rate_of_the_key(rate, now, pauses):
    """A key that may publish once a second sent 1 MiB of lists as often as it liked."""
    slow, remembered, sent = Key("slow", b"", rate=rate), KeyDebts(), 0
    began = now
    for pause in pauses:
        now += pause
        if not remembered.wait(slow, now):
            remembered.note_failure(slow, now)
            sent += 1
    assert sent <= 1 + max(1.0, rate) + rate * (now - began) + 1e-6


def test_many_requests_at_once_block_a_key_for_a_bounded_time():
    slow, remembered = Key("slow", b"", rate=0.5), KeyDebts()
    for _ in range(500):
        remembered.note_failure(slow, 7.0)
    assert remembered.wait(slow, 7.0) == pytest.approx(2.0)
    remembered.note_failure(Key("slow", b"", rate=100.0), 7.0)
    assert remembered.wait(Key("slow", b"", rate=100.0), 7.0) == 0.0


def test_a_few_invalid_requests_delay_nothing():
    quick, remembered = Key("quick", b"", rate=5.0), KeyDebts()
    for _ in range(5):
        remembered.note_failure(quick, 7.0)
        assert remembered.wait(quick, 7.0) == 0.0
    remembered.note_failure(quick, 7.0)
    assert remembered.wait(quick, 7.0) == pytest.approx(0.2)
    assert remembered.wait(quick, 7.3) == 0.0
