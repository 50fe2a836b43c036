"""A server that the tests fork is like one that they start."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.eventually import eventually_sync
from tests.support.zygote import ZYGOTE, ForkedProcess, may_fork

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the zygote needs Linux")
ONCE = ("-n", "1", "-r", "1")  # `timeit` runs its last argument as code
FACTS = """
import json, os, signal, sys, tempfile, threading
print(json.dumps({
    "environment": dict(os.environ),
    "arguments": sys.argv[1:3],
    "folder": os.getcwd(),
    "interrupt": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
    "children": signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL,
    "files": [name for name in os.listdir("/proc/self/fd") if int(name) > 2],
    "threads": threading.active_count(),
    "temporary": tempfile.gettempdir(),
    "libraries": sorted({"django", "uvicorn", "redis"} & set(sys.modules)),
    "settings": "tests.settings" in sys.modules,
}))
"""


def start(log: Path, code: str, **env: str) -> ForkedProcess:
    with log.open("wb") as output:
        environment = {**os.environ, **env}
        return ZYGOTE.start("timeit", [*ONCE, code], environment, output.fileno())


def test_a_forked_process_has_only_what_it_was_given(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = start(log, FACTS, A_VARIABLE="é", TMPDIR=str(tmp_path))
    assert process.wait(60) == 0
    facts: dict[str, Any] = json.loads(log.read_text(encoding="utf-8").splitlines()[0])
    assert facts.pop("environment") == {**os.environ, "A_VARIABLE": "é", "TMPDIR": str(tmp_path)}
    assert len(facts.pop("files")) == 1  # the directory that it lists
    assert facts == {
        "arguments": ["-n", "1"],
        "folder": str(Path.cwd()),
        "interrupt": True,
        "children": True,
        "threads": 1,
        "temporary": str(tmp_path),
        "libraries": ["django", "redis", "uvicorn"],
        "settings": False,
    }


def test_its_errors_are_in_its_output(tmp_path: Path) -> None:
    process = start(tmp_path / "log", "raise ValueError('an error')")
    assert process.wait(60) == 1
    assert process.poll() == 1
    assert "ValueError: an error" in (tmp_path / "log").read_text(encoding="utf-8")


def test_a_line_is_in_its_output_at_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = start(log, "import time; print('a line'); time.sleep(600)")
    eventually_sync(lambda: log.read_text(encoding="utf-8") == "a line\n")
    process.kill()
    process.wait(60)


def test_a_signal_ends_it(tmp_path: Path) -> None:
    processes = [start(tmp_path / f"{n}", "import time; time.sleep(600)") for n in range(3)]
    assert [process.poll() for process in processes] == [None] * 3
    with pytest.raises(subprocess.TimeoutExpired):
        processes[0].wait(0.01)
    processes[1].kill()
    assert processes[1].wait(60) == -signal.SIGKILL
    processes[0].terminate()
    assert processes[0].wait(60) == -signal.SIGTERM
    processes[2].kill()
    processes[0].send_signal(signal.SIGTERM)  # it has ended: nothing happens
    assert processes[2].wait(60) == -signal.SIGKILL


@pytest.mark.parametrize("name", ["LD_PRELOAD", "PYTHONPATH", "PYTHONDEVMODE", "LC_ALL", "TZ"])
def test_what_python_reads_before_it_runs_needs_an_ordinary_start(name: str) -> None:
    assert may_fork({**os.environ, "REDIS_URL": "redis://h", "PYTHONUNBUFFERED": "1"})
    assert not may_fork({**os.environ, name: "other"})
