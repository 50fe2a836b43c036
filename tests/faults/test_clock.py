"""The wall clock jumps by a day in either direction without any effect.

libfaketime changes the clock of a running process and leaves CLOCK_MONOTONIC alone, like NTP or an
operator. Each jump is read back from the process before the test draws conclusions from it.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from realtime.brokers.redis import RedisBroker
from tests.support.client import Client
from tests.support.eventually import eventually
from tests.support.ledger import Fault
from tests.support.load import Load
from tests.support.machine import within
from tests.support.redis_server import RedisServer
from tests.support.service import Service

pytestmark = [pytest.mark.faults, pytest.mark.faketime]

Serve = Callable[..., Service]
Attach = Callable[..., Awaitable[Client]]

DAY_SECONDS = 86400
JUMPS = (1, 0, -1)  # days from the true time: ahead by one, back by one, back by one
AFTERWARDS_SECONDS = 1.6
"""A tick of the heartbeat, three canaries, and longer than a canary's timeout (1.5 s)."""
SIZE: dict[str, Any] = {"clients": 6, "per_second": 60, "channels": 3, "publishers": 4}


class Clock:
    """The wall clock of the process that is started with `env`."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        self.jump(0)
        command = ["faketime", "-m", "-f", "+0", "printenv", "LD_PRELOAD"]
        found = subprocess.run(command, capture_output=True, text=True, check=True)
        self.env = {
            "LD_PRELOAD": found.stdout.strip(),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",  # the file is read at each call
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            # Its workaround for a glibc that hangs makes threads that wait for Python's lock spin.
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",
        }

    def jump(self, days: int) -> None:
        """Shift the time by this many days, immediately."""
        following = self._file.with_suffix(".next")
        following.write_text(f"{days:+}d\n")
        os.replace(following, self._file)  # reading a half-written file would be another jump


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path)


@pytest.fixture
def redis_with_clock(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisServer]:
    """A Valkey whose clock can jump."""
    server = RedisServer()
    with monkeypatch.context() as environment:
        for name, value in clock.env.items():
            environment.setenv(name, value)
        server.start()
    yield server
    server.stop()


@pytest.fixture
def service_with_clock(own_redis: RedisServer, serve: Serve, clock: Clock) -> Iterator[Service]:
    """A service whose clock can jump."""
    service = serve(own_redis.url, "framed", TEST_PING_SECONDS="1", **clock.env)
    yield service
    # uvicorn is ended by the signal that stopped it, and libfaketime then leaves these files
    # behind.
    for left in Path("/dev/shm").glob(f"*faketime_*_{service.pid}"):
        left.unlink()


def days_off(seconds: float) -> float:
    return round((seconds - time.time()) / DAY_SECONDS, 3)


async def shows(service: Service, days: int) -> bool:
    """Return the error of its clock, according to the Date header of its server."""
    answer = await ask(service, "livez")
    return days_off(parsedate_to_datetime(answer.headers["date"]).timestamp()) == days


def days_of_redis(server: RedisServer) -> float:
    with server.client() as direct:
        return days_off(direct.time()[0])


async def ask(service: Service, probe: str) -> httpx.Response:
    """Query it in a thread, because the load runs in this one."""
    return await asyncio.to_thread(httpx.get, f"{service.http}/{probe}")


async def is_told_nothing_but_pings(client: Client) -> None:
    pings = client.pings
    await client.silence(AFTERWARDS_SECONDS)
    async with within(5):
        while client.pings == pings:
            await client.silence(0.1)


def nothing_happened(load: Load) -> None:
    """Each client was told once that its node is live, and received exactly all publications."""
    assert load.verdict() == []
    summary = load.ledger.summary()
    assert (summary.announced, summary.open_gaps) == (0, 0)
    assert all([live for _, live in each.states] == [True] for each in load.listeners)
    assert not load.unanswered
    assert set(load.statuses) <= {200, 409}  # 409: it tries other data with a key that was used


async def test_a_one_day_jump_of_the_service_clock_has_no_effect(
    service_with_clock: Service, attach: Attach, clock: Clock
) -> None:
    service = service_with_clock
    witness = await attach(service)
    async with Load([service], posted_to=[service], **SIZE) as load:
        for days in JUMPS:
            clock.jump(days)
            await eventually(lambda days=days: shows(service, days))
            await is_told_nothing_but_pings(witness)
            assert (await ask(service, "readyz")).status_code == 200
        await load.balance()
        nothing_happened(load)


async def test_a_one_day_jump_of_the_redis_clock_has_no_effect(
    redis_with_clock: RedisServer, serve: Serve, attach: Attach, clock: Clock
) -> None:
    """No epoch ends, whether publications are frequent, rare or absent."""
    service = serve(redis_with_clock.url, "framed", TEST_PING_SECONDS="1")
    witness = await attach(service)
    rare = await witness.subscribe("public:rare")
    silent = {f"public:silent{days}": days for days in JUMPS}
    epochs = {channel: (await witness.subscribe(channel))["epoch"] for channel in silent}
    await listen_for_hours(redis_with_clock, [*silent])
    async with Load([service], posted_to=[service], **SIZE) as load:
        await eventually(lambda: all(each.heard for each in load.listeners))
        for offset, (channel, days) in enumerate(silent.items(), start=1):
            service.publish("public:rare", days)
            assert await witness.push("pub") == {"data": days, "offset": 2 * offset - 1}
            async with forgetting(load):
                clock.jump(days)
                assert days_of_redis(redis_with_clock) == days
            assert service.publish("public:rare", days)["epoch"] == rare["epoch"]
            assert await witness.push("pub") == {"data": days, "offset": 2 * offset}
            assert service.publish(channel, days)["epoch"] == epochs[channel]
            assert await witness.push("pub") == {"data": days, "offset": 1}
            await listen_for_a_minute(redis_with_clock, [*silent])  # before the next jump
            await is_told_nothing_but_pings(witness)
            assert (await ask(service, "readyz")).status_code == 200
        await load.balance()
        nothing_happened(load)


@asynccontextmanager
async def forgetting(load: Load) -> AsyncIterator[None]:
    """Idempotency keys expire early when the clock jumps ahead; epochs do not."""
    fault = Fault("Redis' clock jumps", time.monotonic(), float("inf"), forgets=True)
    load.ledger.faults.append(fault)
    yield
    fault.ended = time.monotonic()


async def listen_for_a_minute(server: RedisServer, channels: list[str]) -> None:
    """Read positions as a node does once a minute."""
    broker = RedisBroker(server.url)
    await broker.positions(channels)
    await broker.aclose()


async def listen_for_hours(server: RedisServer, channels: list[str]) -> None:
    """Read positions as often as a node that has listened for a little more than six hours."""
    broker = RedisBroker(server.url)
    for _ in range(38):
        await broker.positions(channels * 10)
    await broker.aclose()


async def test_a_forward_clock_jump_keeps_the_epoch_of_an_unused_channel(
    redis_with_clock: RedisServer, serve: Serve, attach: Attach, clock: Clock
) -> None:
    """The channel has no counter that could expire.

    Yesterday's base closes before it is replaced.
    """
    service = serve(redis_with_clock.url)
    client = await attach(service)
    start = await client.subscribe("public:new")
    clock.jump(1)
    assert days_of_redis(redis_with_clock) == 1
    assert service.publish("public:new", "first")["epoch"] == start["epoch"]
    assert await client.push("pub") == {"data": "first", "offset": 1}
