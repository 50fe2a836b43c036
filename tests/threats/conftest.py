"""The service as deployed, to be attacked; afterwards it must still be healthy."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import Client
from tests.support.load import Load
from tests.support.redis_server import RedisServer
from tests.support.service import DEPLOYED, Service
from tests.support.tables import add_row, show_table
from tests.threats.attackers import SLOW_KEY, TOKEN_SECRET

FULL = os.environ.get("NOTIFIER_THREATS") == "full"
Attach = Callable[..., Awaitable[Client]]
ADDRESSES = (f"127.2.{number // 250}.{1 + number % 250}" for number in range(250 * 250))
ORIGIN = "https://app.example.com"
Watched = Callable[[Service], AbstractAsyncContextManager[Load]]


class Target(Service):
    """A service with its own Redis."""

    def __init__(self, redis: RedisServer, **env: str) -> None:
        slow = {"name": "slow", "sha256": sha256(SLOW_KEY).hexdigest(), "rate": 1}
        given = {
            "ALLOWED_ORIGINS": ORIGIN,
            "NOTIFIER_TOKEN_SECRET": TOKEN_SECRET,
            "NOTIFIER_API_KEYS": json.dumps([slow]),
            "HTTPS": "0",
        }
        super().__init__(redis.url, DEPLOYED, **(given | env))
        self.redis = redis

    def looks_well(self) -> None:
        """Check that it raised nothing, that no worker died, and that no secret was logged."""
        log = self.log
        for sign in (
            "Traceback",
            "Exception",
            "never awaited",
            "never retrieved",
            "a worker exited",
        ):
            assert sign not in log, log[-5000:]
        for secret in ("test-key", TOKEN_SECRET, "s" * 50, SLOW_KEY.decode()):
            assert secret not in log, "a secret is in the log"


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process; only on Linux (`needs_proc`)."""
    pages = Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def attach(attach: Attach) -> Attach:
    """Give each client an address: a publish budget outlives its connection (docs/security.md)."""

    async def open_client(service: Service, **options: Any) -> Client:
        if sys.platform == "linux":  # which routes all of 127.0.0.0/8
            options.setdefault("local_addr", (next(ADDRESSES), 0))
        return await attach(service, **options)

    return open_client


def least_growth(pid: int, attack: Callable[[], object], limit: int) -> int:
    """Attack up to three times; return the least growth of a process, in bytes.

    The memory cost of an attack recurs every time. One-time growth (loading a module, starting a
    thread, finishing work for an earlier test) does not.
    """
    growths: list[int] = []
    while len(growths) < 3 and (not growths or growths[-1] >= limit):
        before = resident_bytes(pid)
        attack()
        growths.append(resident_bytes(pid) - before)
    return min(growths)


TABLES = {
    "fuzz": "| what | sent | outcomes | memory, MiB | the witnesses received |",
    "other": "| server | sent | outcomes | tracebacks | the witnesses received |",
    "beside": "| ten of | answer p50, ms | p99 ms | lost |",
    "attackers": "| done |",
    "mix": "| | published | received | p50 ms | p99 ms | max ms | answer p50, ms | max ms | lost |",
}
Report = Callable[..., None]


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Report:
    """Add a row to one of the tables of docs/security.md, which are printed at the end."""

    def write(table: str, *cells: object) -> None:
        add_row(request.node, table, "| " + " | ".join(str(cell) for cell in cells) + " |")

    return write


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for name, columns in TABLES.items():
        show_table(terminalreporter, f"threats: {name}", name, columns)


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    """One service for the attacks of a module."""
    redis = RedisServer().start()
    target = Target(redis)
    try:
        target.start()
        worker = target.worker_pid
        yield target
        target.looks_well()
        assert target.worker_pid == worker
        assert target.is_live()
    finally:
        target.stop()
        redis.stop()


@pytest.fixture
def watched() -> Watched:
    """Healthy clients and publishers during an attack, who must lose nothing.

    With ``late``, responses to publishers may take longer.
    """

    @asynccontextmanager
    async def watch(service: Service, *, late: bool = False, **size: Any) -> AsyncIterator[Load]:
        size = {"clients": 6, "per_second": 30, "channels": 2, "publishers": 8} | size
        async with Load([service], posted_to=[service], **size) as load:
            yield load
            await load.balance()
            verdict = load.verdict()
            if late:
                verdict = [said for said in verdict if "× an answer" not in said]
            assert not verdict, "\n".join(verdict[:20])
            assert not any(each.ended for each in load.listeners), "a witness was disconnected"
            assert load.ledger.summary().received

    return watch
