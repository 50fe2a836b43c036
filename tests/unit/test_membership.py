"""Messages about members, and the budget for announcing joins one by one."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.core.members import (
    CHANGES_BYTES,
    PREFIX,
    PUSHES_BURST,
    PUSHES_PER_SECOND,
    UNKNOWN_COUNT,
    AnnouncementThrottle,
    Changes,
    Headcount,
    decode_changes,
    encode_members,
)
from realtime.errors import EnvelopeError

ADA = '{"user":"ada","client":"1","conn_info":{"name":"Ada"},"chan_info":{"role":"guest"}}'
BEN = '{"user":"ben","client":"2"}'


def told(**changed: object) -> bytes:
    fields = {"num_clients": 1, "num_users": 1, "joined": [], "left": [], "untold": 0, **changed}
    return PREFIX + json.dumps(fields, separators=(",", ":")).encode()


def changes(joined: int, untold: int = 0) -> Changes:
    return Changes((BEN,) * joined, (), untold, Headcount(joined, 1))


def test_an_encoded_message_is_decoded() -> None:
    raw = told(joined=[json.loads(ADA)], left=[json.loads(BEN)], untold=3, num_clients=5)
    assert decode_changes(raw) == Changes((ADA,), (BEN,), 3, Headcount(5, 1))


@pytest.mark.parametrize(
    "raw",
    [
        PREFIX + b"{}",
        PREFIX + b"\xff",
        told(joined=[1]),
        told(joined=[{"user": 1, "client": "1"}]),
        told(joined=[{"client": "1", "user": "ada"}]),  # not as we write it
        told(joined=[{"user": "ada", "client": "1", "more": 1}]),
        told(extra=1),
        PREFIX + b" " * (2 * CHANGES_BYTES),
        told(joined=[{"user": "ada", "client": "1"}]).replace(b'"1"', b'"1"\n'),
    ],
)
def test_foreign_messages_are_refused(raw: bytes) -> None:
    with pytest.raises(EnvelopeError):
        decode_changes(raw)


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_garbage_raises_only_the_documented_error(raw: bytes) -> None:
    with contextlib.suppress(EnvelopeError):
        decode_changes(PREFIX + raw)


def test_members_are_listed_as_one_object() -> None:
    assert json.loads(encode_members({"1": ADA, "2": BEN})) == {
        "1": json.loads(ADA),
        "2": json.loads(BEN),
    }
    assert encode_members({}) == "{}"


def test_a_few_changes_are_announced_one_by_one() -> None:
    throttle = AnnouncementThrottle(0.0)
    assert throttle.admits(changes(1), 10, 0.0)
    assert throttle.untold == 0
    assert throttle.headcount == Headcount(1, 1)


def test_a_message_without_names_is_counted_for_later() -> None:
    throttle = AnnouncementThrottle(0.0)
    assert not throttle.admits(changes(0, untold=60), 10, 0.0)
    assert throttle.untold == 60
    throttle.note_count_sent()
    assert throttle.untold == 0


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(1, 3000), st.floats(0, 2)), max_size=60))
def test_announcements_never_exceed_the_rate(
    storm: list[tuple[int, int, float]],
) -> None:
    """Everything that is not announced individually is counted."""
    throttle = AnnouncementThrottle(0.0)
    now = pushes = told_by_name = came = 0.0
    for joins, listeners, pause in storm:
        now += pause
        came += joins
        if throttle.admits(changes(joins), listeners, now):
            pushes += joins * listeners
            told_by_name += joins
    assert pushes <= PUSHES_BURST + now * PUSHES_PER_SECOND + 1e-6
    assert told_by_name + throttle.untold == came


def test_after_a_break_the_number_of_changes_is_unknown() -> None:
    throttle = AnnouncementThrottle(0.0)
    throttle.note_loss()
    assert throttle.untold == UNKNOWN_COUNT
    assert throttle.headcount is None
    assert throttle.admits(changes(1, untold=2), 10, 0.0)
    assert throttle.untold == UNKNOWN_COUNT
