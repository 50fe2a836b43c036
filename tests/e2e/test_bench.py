"""`make bench`, in a small and short form, so that it still works when it is needed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.crowd import Crowd, Dialect, Member, framed_size
from bench.report import medians, ratios

CHECKOUT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or (os.cpu_count() or 1) < 2,
    reason="the bench needs Linux and two processors",
)


SMALL_SCALE = """
import sys
from bench import scale
scale.PAYLOADS, scale.NODES, scale.ROUNDS, scale.SUBSCRIBERS = (100, 1024), (2,), 3, 20
sys.argv[1:] = ["payload", "nodes", "--repeat", "1"]
scale.main()
"""


def test_the_curves_of_scale_are_measured() -> None:
    before = set((CHECKOUT / "bench/results").glob("scale-*"))
    done = subprocess.run(
        [sys.executable, "-c", SMALL_SCALE],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    for path in set((CHECKOUT / "bench/results").glob("scale-*")) - before:
        path.unlink()
    assert done.returncode == 0, done.stderr
    assert "| 1,024 |" in done.stdout
    assert "Redis µs/publication" in done.stdout


SMALL = ("--repeat", "1", "--scale", "0.02")


def test_clients_join_with_each_identity() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "joins", "--servers", "notifier", *SMALL],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    for identity in ("anonymous", "token, HS256", "token, ES256", "session"):
        assert f"| {identity} " in done.stdout


def test_a_run_prints_tables_and_saves_the_figures() -> None:
    command = ["-m", "bench", "closed", "--servers", "notifier,floor", "--repeat", "2"]
    done = subprocess.run(
        [sys.executable, *command, "--scale", "0.02"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    assert "| notifier " in done.stdout
    assert "| notifier / … |" in done.stdout
    path = Path(done.stdout.rpartition("All runs: ")[2].strip())
    result = json.loads(path.read_text(encoding="utf-8"))
    path.unlink()
    assert [row["server"] for row in result["rows"]] == ["notifier", "floor"] * 2
    assert all(row["deliveries/s"] > 0 for row in result["rows"])
    assert {"cpu", "commit", "python", "versions"} <= result["machine"].keys()


def test_every_scenario_and_server_is_explained() -> None:
    command = [sys.executable, "-m", "bench", "--help"]
    printed = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    for name in ("pipelined-http", "slow", "centrifuge-memory", "socketio", "notifier-daphne"):
        assert f"  {name} " in printed.stdout


def test_an_unknown_name_lists_the_known_ones() -> None:
    command = [sys.executable, "-m", "bench", "nonesuch"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "unknown scenario nonesuch; known: closed," in done.stderr


def row(server: str, turn: int, rate: float) -> dict[str, object]:
    return {"server": server, "turn": turn, "deliveries/s": rate}


def test_ratios_are_computed_per_round() -> None:
    """If the machine was twice as fast in the third turn, the ratio of the medians would be 1.5."""
    rows = [row("a", 0, 10), row("b", 0, 10), row("a", 1, 15), row("b", 1, 10)]
    rows += [row("a", 2, 60), row("b", 2, 20)]
    assert ratios(rows) == [{"a / …": "b", "deliveries/s": "1.5 (1–3)"}]
    assert medians(rows)[0] == {"server": "a", "deliveries/s": 15}


class Pipe:
    """The client's end of a socket; it already contains what the server has sent."""

    def __init__(self) -> None:
        self.sent = b""

    def sendall(self, data: bytes) -> None:
        self.sent += data


def test_a_ping_is_answered_by_each_member_that_gets_the_same_bytes() -> None:
    """A member that received the same bytes as another one used to be counted without answering.

    Out of 20 clients, only one answered the server's ping, and the server closed the other 19.
    """
    crowd = Crowd(1, Dialect(path="/", marker=b"pub"), lambda number: "c")
    for ping in (b"\x89\x04abcd", b"\x81\x03pub\x89\x04abcd", b"\x81\x03pub"):
        members = [Member(number, Pipe()) for number in range(3)]  # type: ignore[arg-type]
        for member in members:
            crowd._received(member, ping)
        answers = {member.socket.sent for member in members}  # type: ignore[attr-defined]
        assert answers == ({b"\x8a\x84\0\0\0\0abcd"} if b"abcd" in ping else {b""})
        assert {member.pushes for member in members} == {ping.count(b"pub")}
    crowd.close()


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
def test_the_frame_size_is_computed(size: int) -> None:
    from realtime.protocols.centrifugo import text_frame

    assert framed_size(b"x" * size) == len(text_frame(b"x" * size))


def test_a_plan_is_calculated_and_simulated() -> None:
    plan = ["--connections", "30000", "--workers", "6", "--topics", "300"]
    done = subprocess.run(
        [sys.executable, "-m", "bench.million", *plan],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^\| 6 +\| 5,000 ", done.stdout, re.M)
    assert re.search(r"^\| 10,000 +\| 4 ", done.stdout, re.M)
