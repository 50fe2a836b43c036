"""Deadlines are extended while the processes under test wait for a processor."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.machine import _sleeper

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
