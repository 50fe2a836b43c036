"""When a node that nobody uses stops."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.core.idleness import IdleRule

moments = st.floats(0, 1e9)


@given(moments)
def test_a_node_with_a_lifespan_never_stops(now: float) -> None:
    assert not IdleRule().may_stop(now)


@pytest.mark.parametrize(
    ("now", "stops"), [(100.0, False), (110.0, False), (110.1, True), (1e9, True)]
)
def test_an_unused_node_stops_after_its_time(now: float, stops: bool) -> None:
    idleness = IdleRule()
    idleness.rest_after_seconds = 10
    idleness.note_use(100.0)
    assert idleness.may_stop(now) is stops


@given(moments, moments, moments)
def test_a_node_that_is_kept_does_not_stop_before(used: float, until: float, now: float) -> None:
    idleness = IdleRule()
    idleness.rest_after_seconds = 0
    idleness.note_use(used)
    idleness.keep(until)
    assert idleness.may_stop(now) == (now > used and now > until)
