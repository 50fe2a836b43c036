"""Blocked users: until when, how many, and what a node knows while it reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.core.blocked_users import BlockedUsers, TooManyBlocks

NOW = 1000


def test_a_user_is_blocked_until_the_end() -> None:
    blocked = BlockedUsers()
    blocked.change("ada", NOW + 10, NOW)
    assert blocked.is_blocked("ada", NOW + 9.9)
    assert not blocked.is_blocked("ada", NOW + 10)
    assert not blocked.is_blocked("ben", NOW)
    assert not blocked.is_blocked("", NOW), "an anonymous client"
    blocked.change("ada", 0, NOW)
    assert not blocked.is_blocked("ada", NOW)
    blocked.change("ada", 0, NOW)
    assert len(blocked) == 0


def test_only_blocks_that_last_count_against_the_limit() -> None:
    blocked = BlockedUsers(limit=2)
    blocked.change("a", NOW + 10, NOW)
    blocked.change("b", NOW + 20, NOW)
    blocked.change("a", NOW + 11, NOW)
    with pytest.raises(TooManyBlocks):
        blocked.change("c", NOW + 30, NOW)
    assert blocked.copy() == {"a": NOW + 11, "b": NOW + 20}
    blocked.change("c", NOW + 30, NOW + 11)
    assert blocked.copy() == {"b": NOW + 20, "c": NOW + 30}


USERS = st.sampled_from("abc")
CHANGES = st.lists(st.tuples(USERS, st.sampled_from([0, NOW - 1, NOW + 5, NOW + 9])), max_size=6)


@given(CHANGES, CHANGES, st.integers(0, 6))
def test_after_a_read_a_node_knows_what_the_broker_knows(
    earlier: list[tuple[str, int]], later: list[tuple[str, int]], read_at: int
) -> None:
    """Whichever changes the broker had when it was read, and whatever the node missed before."""
    broker, node = BlockedUsers(), BlockedUsers()
    for user, until in earlier:  # the node misses these
        broker.change(user, until, NOW)
    node.change("x", NOW + 9, NOW)  # the end of this one, too
    node.begin_read()
    read = broker.copy()
    for number, (user, until) in enumerate(later):
        broker.change(user, until, NOW)
        node.change(user, until, NOW)
        if number == read_at:
            read = broker.copy()
    lost = node.finish_read(read, NOW)
    assert node.copy() == broker.copy()
    assert lost == 1, "the block of x ended unheard"
    node.change("a", NOW + 5, NOW)
    node.finish_read({}, NOW)
    assert node.copy() == {}, "nothing is remembered of changes outside of a read"
