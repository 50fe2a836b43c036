"""`python -m bench.walks` traces a real server and a real worker, and counts what they execute."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.walks import WALKS, Step, figures, usual

ROOT = Path(__file__).resolve().parents[2]
LONGEST_POST = 32
"""Files of the app from a POST to the bytes; the goal was 20, see ADR-0030. Six of them count, and
note the time and the trace of a publication (ADR-0041)."""
TRIES = 3
"""A trace on a busy machine may contain a timer's code, but never lacks code of the walk."""
ENDPOINT, NAMES = "realtime/endpoint.py", "realtime/core/names.py"


def test_each_walk_is_found() -> None:
    for _ in range(TRIES):
        walks = _trace()
        if walks["post"]["in_realtime"] <= LONGEST_POST:
            break
    assert list(walks) == list(WALKS)
    for walk in walks.values():
        assert walk["files"] == len(walk["visits"]) > 5
        assert walk["in_realtime"] <= walk["files"] <= walk["functions"] <= walk["lines"]
        assert walk["switches"] == walk["files"] - 1 + walk["returns"]
        assert all((ROOT / visit["file"]).is_file() for visit in walk["visits"])
    assert walks["post"]["in_realtime"] <= LONGEST_POST, _files(walks["post"])
    assert "notifier/http.py" in _files(walks["post"])
    assert "notifier/websocket.py" in _files(walks["subscribe"])


def _trace() -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "bench.walks", "--json", "--rounds", "2"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    traced: dict[str, Any] = json.loads(done.stdout)
    return traced


def _files(walk: dict[str, Any]) -> set[str]:
    return {visit["file"] for visit in walk["visits"]}


def test_a_switch_back_to_a_visited_file_is_a_return() -> None:
    walk = [Step(ENDPOINT, "a", 1, 0), Step(NAMES, "b", 2, 1), Step(NAMES, "c", 3, 1)]
    counted = figures([*walk, Step(ENDPOINT, "d", 4, 0)])
    assert (counted.files, counted.functions) == (2, 4)
    assert (counted.switches, counted.returns) == (2, 1)


def test_occasional_functions_are_not_part_of_the_walk() -> None:
    step, timer = Step(ENDPOINT, "a", 1, 0), Step(NAMES, "timer", 2, 0)
    assert usual([[step], [step, timer], [step], [timer, step]]) == [step]
