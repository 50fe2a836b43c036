"""The latest value is always sent, at a limited rate."""

from __future__ import annotations

import heapq
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from realtime.contrib.pace import Pace

SECONDS = 0.2


def told(reports: list[float], *, pauses: list[float] | None = None) -> list[tuple[float, int]]:
    """Pass reports at these times to a pace; return what was reported when."""
    pace, sent = Pace(SECONDS), []
    later = iter(pauses or [])
    events = [(at, 1, number) for number, at in enumerate(sorted(reports))]
    heapq.heapify(events)
    newest = -1
    while events:
        now, kind, number = heapq.heappop(events)
        if kind == 1:
            newest = number
            wait = pace.wait(now)
            if wait:
                heapq.heappush(events, (now + wait, 0, 0))
            if wait != 0.0:
                continue
        sent.append((now, newest))
        pace.note_attempt(now, pause=next(later, 0.0))
    return sent


times = st.lists(st.floats(0, 10), min_size=1, max_size=200)


@given(times)
def test_the_latest_value_is_sent_in_time(reports):
    sent = told(reports)
    assert sent[-1][1] == len(reports) - 1
    assert sent[-1][0] <= max(reports) + SECONDS + 1e-9
    assert sent[0] == (min(reports), 0)


@given(times, st.lists(st.floats(0, 5), max_size=20))
def test_values_are_not_sent_more_often_than_allowed(reports, pauses):
    sent = told(reports, pauses=pauses)
    gaps = [b - a for (a, _), (b, _) in pairwise(sent)]
    wanted = [max(SECONDS, pause) for pause in [*pauses, *[0.0] * len(sent)]]
    assert all(gap >= want - 1e-9 for gap, want in zip(gaps, wanted, strict=False))
    assert sent[-1][1] == len(reports) - 1


@given(times)
def test_values_are_sent_once_and_in_order(reports):
    numbers = [number for _, number in told(reports)]
    assert numbers == sorted(set(numbers))
