"""An outage is told twice, when it begins and when it is over, whatever happens between."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from realtime.outage import CALM_SECONDS, Outage, Over


def test_the_first_failure_is_news_and_the_end_counts_all() -> None:
    outage = Outage()
    assert outage.worked(1.0) is None
    assert outage.failed(2.0)
    assert not outage.failed(3.0)
    assert outage.worked(3.5) is None, "good and bad still take turns"
    assert outage.worked(3.0 + CALM_SECONDS) == Over(failures=2, seconds=1.0)
    assert outage.worked(9.0) is None
    assert outage.failed(10.0)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 3)), max_size=60))
def test_beginnings_and_ends_take_turns_and_every_failure_is_counted(
    attempts: list[tuple[bool, float]],
) -> None:
    outage, now, told, failures = Outage(), 0.0, [], 0
    for worked, pause in attempts:
        now += pause
        if worked:
            if (over := outage.worked(now)) is not None:
                told.append("over")
                failures -= over.failures
        else:
            failures += 1
            if outage.failed(now):
                told.append("began")
    assert told == ["began", "over"] * (len(told) // 2) + ["began"] * (len(told) % 2)
    assert (failures > 0) == (len(told) % 2 == 1)
