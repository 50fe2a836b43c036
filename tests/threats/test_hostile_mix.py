"""All attacks at once, while two hundred witnesses only listen."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.load import Load
from tests.support.machine import in_time
from tests.support.service import ROOT, needs_proc
from tests.threats.conftest import FULL, Report, Target, Watched, resident_bytes

SECONDS = 60.0 if FULL else 5.0
WORK = (
    *("greedy", "churner", "asker", "body_holder", "upgrader", "globber", "linker", "bracketer"),
    *("broadcaster", "shower", "namer", "squatter", "early"),
)
"""Attacks that are expensive per request or frame, instead of numerous."""
SIZES = (
    {
        **{"silent": 2_500, "silent_upgraded": 2_500, "slow_headers": 500, "slow_body": 100},
        "member": 100,
        **dict.fromkeys(("pinger", "subscriber", "oversize", "guesser", "forger"), 10),
        **dict.fromkeys(WORK, 10),
    }
    if FULL
    else {
        **{"silent": 200, "silent_upgraded": 200, "slow_headers": 50, "slow_body": 20},
        "member": 20,
        **dict.fromkeys(("pinger", "subscriber", "oversize", "guesser", "forger"), 2),
        **dict.fromkeys(WORK, 2),
    }
)
WITNESSES = (
    {"clients": 200, "per_second": 50, "channels": 10}
    if FULL
    else {"clients": 40, "per_second": 30, "channels": 4}
)
ATTACKS = (
    *("silent sockets", "silent WebSockets", "slow headers", "pings", "subscribes"),
    *("channels in connect", "new channels", "presence questions", "bodies without an end"),
    *("offers that are declined", "patterns", "links", "brackets"),
    *("broadcasts", "members", "tokens in connect", "publications on new channels"),
    *("keys of others", "early publications"),
)
MIB = 1024 * 1024
MEMORY = 400 * MIB
"""The memory allowed for six thousand connections; a leak would take more within a minute."""


@asynccontextmanager
async def attacked(port: int, sizes: dict[str, int] = SIZES) -> AsyncIterator[dict[str, int]]:
    """Start the attackers; at the end, return what they have done."""
    done: dict[str, int] = {}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.threats.attackers", str(port), json.dumps(sizes)),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield done
    finally:
        said, _ = await in_time(process.communicate(b""), 60)
    assert process.returncode == 0
    done.update(json.loads(said))


def delays(load: Load, since: float, until: float) -> list[float]:
    """Return the delay of each delivery of what was published in that time, sorted."""
    began: dict[int, float] = {}
    for attempt in load.ledger.attempts:
        if attempt.position is not None:
            began.setdefault(attempt.number, attempt.began)
    return sorted(
        entry.at - began[entry.number]
        for journal in load.ledger.journals
        for entry in journal.entries
        if hasattr(entry, "number") and since <= began.get(entry.number, 0.0) < until
    )


def answered(load: Load, since: float, until: float) -> list[float]:
    """Return how long each publisher waited in that time, in ms, sorted."""
    attempts = (a for a in load.ledger.attempts if since <= a.began < until)
    return sorted(1000 * (a.ended - a.began) for a in attempts)


@pytest.mark.skipif(not FULL, reason="looks at time: only with NOTIFIER_THREATS=full")
@pytest.mark.timeout(300)
async def test_publishers_wait_while_an_attacker_keeps_the_service_busy(
    target: Target, watched: Watched, report: Report
) -> None:
    """Ten attackers of one kind at a time.

    The median is at most three times that without attack.
    """
    clock, medians = time.monotonic, {}
    async with watched(target, late=True, **WITNESSES) as load:
        for name in ("nobody", *WORK):
            async with attacked(target.port, {} if name == "nobody" else {name: 10}):
                since = clock()
                await load.run(10.0)
                answers = answered(load, since, clock())
            medians[name] = answers[len(answers) // 2]
            p99 = answers[len(answers) * 99 // 100]
            report("beside", name, f"{medians[name]:.1f}", f"{p99:.1f}", 0)
    target.looks_well()
    calm = medians.pop("nobody")
    assert {name: ms for name, ms in medians.items() if ms > 3 * calm} == {}


@needs_proc
@pytest.mark.timeout(300)
async def test_all_attacks_happen_at_once(target: Target, watched: Watched, report: Report) -> None:
    clock = time.monotonic
    before = sockets(target)
    async with watched(target, late=True, **WITNESSES) as load:
        calm_from = clock()
        await load.run(SECONDS)
        calm_until = clock()
        async with attacked(target.port) as done:
            await eventually(lambda: sockets(target) - before > SIZES["silent"], 30)
            hostile_from = clock()
            await load.run(SECONDS)
            hostile_until = clock()
            resident = resident_bytes(target.worker_pid)
    for name, since, until in (
        ("alone", calm_from, calm_until),
        ("attacked", hostile_from, hostile_until),
    ):
        took = delays(load, since, until)
        published = sum(since <= a.began < until for a in load.ledger.attempts if a.position)
        p50, p99 = (1000 * took[int(len(took) * part)] for part in (0.5, 0.99))
        cells = (f"{published:,}", f"{len(took):,}", f"{p50:.1f}", f"{p99:.1f}")
        answers = answered(load, since, until)
        middle = answers[len(answers) // 2]
        report(
            "mix", name, *cells, f"{1000 * took[-1]:.0f}", f"{middle:.1f}", f"{answers[-1]:.0f}", 0
        )
    report("attackers", ", ".join(f"{name}: {count:,}" for name, count in done.items()))
    assert resident < MEMORY
    target.looks_well()
    assert not done["answers in the five hundreds"]
    for name in ATTACKS:
        assert done[name], f"nobody attacked with {name}"
    await eventually(lambda: sockets(target) <= before + 2, 30)


def sockets(target: Target) -> int:
    """Return how many files the serving process has open."""
    return len(list(Path(f"/proc/{target.worker_pid}/fd").iterdir()))
