"""Whether timing reveals what responses do not.

Runs only in full size; no other test uses timing.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable

import pytest

from realtime.api.key_entries import keys_of
from realtime.api.keys import digest_of
from realtime.core.identity import Identity
from realtime.core.namespaces import Namespaces
from tests.threats.conftest import FULL

pytestmark = pytest.mark.skipif(not FULL, reason="looks at time: only with NOTIFIER_THREATS=full")

SAMPLES, CALLS, RUNS = 1_000, 20, 5
T_LIMIT = 4.5
"""Limit of Welch's t: above it, the two times differ (as in tests for side channels)."""
UNSEEN_SECONDS = 200e-9
"""A smaller difference cannot be seen over a network (Crosby, Wallach and Riedi 2009)."""


def samples(one: Callable[[], object], other: Callable[[], object]) -> tuple[float, float]:
    """Measure both alternately; return Welch's t and the difference in seconds per call."""
    took: tuple[list[float], list[float]] = [], []
    for _ in range(SAMPLES):
        for at, call in enumerate((one, other)):
            began = time.perf_counter_ns()
            for _ in range(CALLS):
                call()
            took[at].append((time.perf_counter_ns() - began) / CALLS / 1e9)
    for each in took:
        each.sort()
        del each[-SAMPLES // 20 :]  # the scheduler's, not ours
    means = [statistics.fmean(each) for each in took]
    spread = math.sqrt(sum(statistics.variance(each) / len(each) for each in took))
    return (means[0] - means[1]) / spread, means[0] - means[1]


def look_the_same(one: Callable[[], object], other: Callable[[], object]) -> None:
    gc.collect()
    gc.disable()
    try:
        runs = [samples(one, other) for _ in range(RUNS)]
    finally:
        gc.enable()
    t = statistics.median(abs(t) for t, _ in runs)
    seconds = abs(statistics.median(difference for _, difference in runs))
    assert t < T_LIMIT or seconds < UNSEEN_SECONDS, (t, seconds)


def test_the_timing_of_a_refusal_reveals_whether_a_channel_exists() -> None:
    namespaces = Namespaces({"closed": {}, "members": {"allow_subscribe_for_client": True}})

    def asked_for(channel: str) -> Callable[[], object]:
        def ask() -> object:
            return namespaces.may_subscribe(channel, Identity(""))

        return ask

    look_the_same(asked_for("closed:orders"), asked_for("nowhere:orders"))
    look_the_same(asked_for("closed:a#1"), asked_for("closed:a#9"))


def test_the_timing_of_a_wrong_key_reveals_how_much_is_right() -> None:
    secret = "nk_" + "a" * 43
    keys = keys_of(
        [{"name": f"k{n}", "sha256": digest_of(f"secret {n}").hex()} for n in range(50)],
        and_one=secret,
    )
    nearly, far = secret[:-1] + "b", "z" * len(secret)
    assert keys.find(secret) is not None
    assert keys.find(nearly) is None
    look_the_same(lambda: keys.find(nearly), lambda: keys.find(far))
    look_the_same(lambda: keys.find(secret), lambda: keys.find(far))
