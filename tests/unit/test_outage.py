"""An outage is logged twice: when it begins and when it ends."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from realtime.core.outage import CALM_SECONDS, Outage, OutageEnd


def test_the_first_failure_and_the_total_at_the_end_are_logged() -> None:
    outage = Outage()
    assert outage.note_success(1.0) is None
    assert outage.note_failure(2.0)
    assert not outage.note_failure(3.0)
    assert outage.note_success(3.5) is None, "successes and failures still alternate"
    assert outage.note_success(3.0 + CALM_SECONDS) == OutageEnd(failures=2, seconds=1.0)
    assert outage.note_success(9.0) is None
    assert outage.note_failure(10.0)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 3)), max_size=60))
def test_starts_and_ends_alternate_and_every_failure_is_counted(
    attempts: list[tuple[bool, float]],
) -> None:
    outage, now, told, failures = Outage(), 0.0, [], 0
    for worked, pause in attempts:
        now += pause
        if worked:
            if (over := outage.note_success(now)) is not None:
                told.append("over")
                failures -= over.failures
        else:
            failures += 1
            if outage.note_failure(now):
                told.append("began")
    assert told == ["began", "over"] * (len(told) // 2) + ["began"] * (len(told) % 2)
    assert (failures > 0) == (len(told) % 2 == 1)
