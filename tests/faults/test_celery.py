"""Every job ends, and every page shows its end, even if workers are killed with -9.

NOTIFIER_FAULTS=full runs it in full size.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from realtime.contrib.celery import task_states
from tests.support.celery_worker import CeleryWorker
from tests.support.client import Client
from tests.support.eventually import eventually, eventually_sync
from tests.support.overheard_channel import Heard
from tests.support.redis_server import RedisServer
from tests.support.scene import FULL
from tests.support.service import Service

JOBS, KILLS, WORKERS = (1_000, 20, 3) if FULL else (100, 3, 2)
TASK_SECONDS = 2  # its message is visible again after four


class Workers:
    """Processes with pools; a killed one is replaced."""

    def __init__(self, redis: RedisServer, folder: Path) -> None:
        self._env = {"TEST_REDIS_URL": redis.url, "TEST_TASK_SECONDS": str(TASK_SECONDS)}
        self._folder = folder
        self._started = 0
        self._running: list[CeleryWorker] = []

    def start(self) -> CeleryWorker:
        self._started += 1
        self._running.append(CeleryWorker(self._folder / f"{self._started}.log", **self._env))
        return self._running[-1]

    def kill_one(self) -> None:
        self._running.pop(random.randrange(len(self._running))).kill()
        self.start()

    def stop(self) -> None:
        for worker in self._running:
            worker.kill()

    @property
    def log(self) -> str:
        return "".join(path.read_text() for path in sorted(self._folder.glob("*.log")))


@pytest.fixture
def workers(own_redis: RedisServer, tmp_path: Path) -> Iterator[Workers]:
    made = Workers(own_redis, tmp_path)
    for _ in range(WORKERS):
        made.start()
    yield made
    made.stop()


def test_a_message_that_celery_lost_is_sent_again_unchanged(
    own_redis: RedisServer, tmp_path: Path, settings: Any
) -> None:
    settings.REALTIME_REDIS_URL, settings.REALTIME_REDIS_PREFIX = own_redis.url, "rt"
    from tests.shop import celery

    celery.use_redis_of_settings(TASK_SECONDS)
    celery.name_types.start(datetime.now(UTC), Decimal(1), "text", live_user="7")
    unreadable, foreign = celery.name_types.start(), celery.name_types.start()
    with own_redis.client() as client:
        assert client.delete("rt:celery:celery") == 1
        client.hset(f"rt:{{0}}:job:{unreadable}", "call", "")
        call = client.hget(f"rt:{{0}}:job:{foreign}", "call")
        elsewhere = call.replace(b"tests.shop.celery", b"elsewhere")  # the workers of another app
        assert elsewhere != call
        client.hset(f"rt:{{0}}:job:{foreign}", "call", elsewhere)
    env = {"TEST_REDIS_URL": own_redis.url, "TEST_TASK_SECONDS": str(TASK_SECONDS)}
    worker = CeleryWorker(tmp_path / "log", **env)
    try:
        with Heard(own_redis) as heard:
            states = heard.until("user:#7", "succeeded", seconds=60)
        # Found by the same search, but perhaps after the task has run.
        eventually_sync(lambda: f"cannot send task {unreadable} again" in worker.log, seconds=30)
    finally:
        worker.stop()
    assert states[-1]["message"] == "datetime Decimal str"
    assert worker.log.count("again: its message seems to be lost") == 1
    with own_redis.client() as client:
        assert client.zscore("rt:{0}:jobs:open", foreign) is not None, "its workers look for it"


async def test_every_job_ends_and_every_page_shows_its_end(
    own_redis: RedisServer,
    workers: Workers,
    serve: Callable[..., Service],
    attach: Callable[..., Any],
    settings: Any,
) -> None:
    settings.REALTIME_REDIS_URL, settings.REALTIME_REDIS_PREFIX = own_redis.url, "rt"
    from tests.shop import celery

    celery.use_redis_of_settings(TASK_SECONDS)
    service = await asyncio.to_thread(serve, own_redis.url)
    page: Client = await attach(service)
    await page.subscribe("public:jobs")
    ends: Counter[str] = Counter()

    async def watch() -> None:
        while True:
            message = await page.next(seconds=600)
            data = message.get("push", {}).get("pub", {}).get("data")
            if data and data["state"] in ("succeeded", "failed", "cancelled"):
                ends[data["task"]] += 1

    watching = asyncio.create_task(watch())
    started = time.monotonic()

    def send() -> list[str]:
        return [celery.count_in_public.start(5, 0.01) for _ in range(JOBS)]

    ids = await asyncio.to_thread(send)
    try:
        for kill in range(KILLS):
            due = JOBS * (kill + random.random()) / KILLS
            await eventually(lambda due=due: len(ends) >= due, seconds=120)
            await asyncio.to_thread(workers.kill_one)
        await eventually(lambda: len(ends) == JOBS, seconds=120)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    states = await asyncio.to_thread(task_states, ids)
    assert ends.keys() == set(ids)
    assert Counter(state["state"] for state in states if state) == {"succeeded": JOBS}
    if FULL:
        print(
            f"\n{JOBS:,} jobs, {KILLS} workers killed: each ended and was seen to; "
            f"{workers.log.count('again: its message seems to be lost')} sent again by us, "
            f"{ends.total() - JOBS} ends seen twice; {time.monotonic() - started:.0f} s"
        )
