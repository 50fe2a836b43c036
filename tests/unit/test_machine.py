"""Deadlines are extended while the processes under test wait for a processor."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.machine import LONGEST, _sleeper, allowed

BUSY = "import os\nos.sched_setaffinity(0, {%d})\nwhile True: pass"


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="requires Linux's schedstat")
def test_the_waits_of_two_processes_on_one_processor_count() -> None:
    [processor, *_] = os.sched_getaffinity(0)
    began = time.monotonic()
    busy = [subprocess.Popen([sys.executable, "-c", BUSY % processor]) for _ in range(2)]
    try:
        while _sleeper.others_waited_since(began) < 0.3:
            assert time.monotonic() - began < 60
            time.sleep(0.05)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    waited, passed = _sleeper.others_waited_since(began), time.monotonic() - began
    assert waited <= passed + 0.1  # however many wait at the same time


def test_programs_that_tests_start_are_not_in_development_mode() -> None:
    """Where they were, a slow machine added lines to their standard error."""
    command = [sys.executable, "-c", "import sys; print(sys.flags.dev_mode)"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_what_asyncio_finds_slow_is_not_in_a_log(caplog: pytest.LogCaptureFixture) -> None:
    async def anything() -> None:
        loop = asyncio.get_running_loop()
        loop.slow_callback_duration = 0.0
        await asyncio.sleep(0)

    asyncio.run(anything(), debug=True)
    assert not caplog.records


def test_no_deadline_is_extended_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every process waits all the time, what is stuck would never be noticed."""
    monkeypatch.setattr(_sleeper, "others_waited_since", lambda began: time.monotonic() - began)
    monkeypatch.setattr(_sleeper, "late_since", lambda began: time.monotonic() - began)
    assert allowed(5, time.monotonic() - 1000) == LONGEST * 5 + LONGEST
