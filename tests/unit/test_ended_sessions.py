"""A node remembers ended sessions as long as their tokens can be valid, within a limit."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from realtime.brokers.commands import NODE_COMMANDS_SECONDS
from realtime.host.user_tokens import TOKEN_SECONDS
from realtime.identity.ended_sessions import (
    ENDED_LIMIT,
    ENDED_SECONDS,
    TOKEN_SECONDS_LIMIT,
    EndedSessions,
)
from realtime.identity.tokens import LEEWAY_SECONDS


def test_only_ended_sessions_are_remembered() -> None:
    ended = EndedSessions()
    assert ended.add("one", 0.0)
    assert "one" in ended
    assert "two" not in ended
    assert "" not in ended, "an identity without a session"


def test_a_session_is_remembered_longer_than_the_tokens_of_its_page_are_valid() -> None:
    ended = EndedSessions()
    ended.add("one", 100.0)
    assert TOKEN_SECONDS < TOKEN_SECONDS_LIMIT
    ended.forget_expired(100.0 + TOKEN_SECONDS_LIMIT + LEEWAY_SECONDS)
    assert "one" in ended
    ended.forget_expired(100.0 + ENDED_SECONDS)
    assert "one" not in ended
    assert ENDED_SECONDS == NODE_COMMANDS_SECONDS, "a later node knows as much as the others"


def test_a_flood_of_logouts_evicts_only_the_oldest() -> None:
    ended = EndedSessions()
    assert all(ended.add(str(number), 0.0) for number in range(ENDED_LIMIT))
    assert not ended.add("one more", 0.0), "the eviction is counted"
    assert len(ended) == ENDED_LIMIT
    assert "0" not in ended
    assert "1" in ended
    assert "one more" in ended


def test_a_session_that_ends_twice_counts_once() -> None:
    """Django sends two signals at a logout: for the logout, and for the deletion of the session."""
    ended = EndedSessions(limit=2)
    assert [ended.add(session, 0.0) for session in ("a", "a", "b", "a")] == [True] * 4
    assert len(ended) == 2


# Whole seconds: with fractions, now + 10 - 10 may be less than now.
@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 5)), max_size=30))
def test_the_memory_is_bounded_and_keeps_the_newest(steps: list[tuple[str, int]]) -> None:
    ended, now = EndedSessions(limit=3, seconds=10), 0.0
    for session, pause in steps:
        now += pause
        ended.forget_expired(now)
        ended.add(session, now)
        assert session in ended
        assert len(ended) <= 3
    ended.forget_expired(now + 10)
    assert len(ended) == 0
