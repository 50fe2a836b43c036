"""The host project's Celery."""

from __future__ import annotations

import asyncio
import gc
import os
import time
import warnings

import django
from kombu import pools

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
django.setup()

from realtime.contrib.celery import JobFailed, LiveTask, celery_app, redis_settings  # noqa: E402

app = celery_app("shop", task_seconds=float(os.environ.get("TEST_TASK_SECONDS", "600")))

in_use = False
"""Whether this process has used it since the last `forget_connections`."""


def use_redis_of_settings(task_seconds: float) -> None:
    """Use the Redis that a test has put into Django's settings, until `forget_connections`."""
    global in_use
    _close_connections()
    in_use = True
    app.conf.update(redis_settings(task_seconds))
    # State that belongs to another Redis: connections, producers, and the result backend.
    app._after_fork()
    app._backend_cache = None
    vars(app._local).pop("backend", None)


def forget_connections() -> None:
    """Close and collect the connections of a test.

    Celery, Kombu and redis-py leave some in reference cycles, of a failed attempt for example,
    where a socket may be finalized before the object that closes it. The collector would say so in
    any later test.
    """
    global in_use
    in_use = False
    _close_connections()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def _close_connections() -> None:
    """Close what `_after_fork` only forgets."""
    pools.reset()
    for backend in (app._backend_cache, vars(app._local).get("backend")):
        if backend is not None:
            backend.result_consumer.stop()
            backend.client.connection_pool.disconnect()


@app.task(base=LiveTask, bind=True)
def count(self: LiveTask, total: int, seconds: float = 0.0) -> str:
    for done in range(1, total + 1):
        self.progress(done, total, f"step {done}")
        if seconds:
            time.sleep(seconds)
    return f"counted to {total}"


@app.task(base=LiveTask, bind=True)
def pause(self: LiveTask, path: str) -> None:
    """Report progress immediately, and then nothing until the test says so."""
    self.progress(1, 3)
    self.progress(2, 3)
    while not os.path.exists(path):
        time.sleep(0.02)


@app.task(base=LiveTask, bind=True)
def fail(self: LiveTask, text: str) -> None:
    if text:
        raise JobFailed(text)
    raise ValueError("a secret of the database")


@app.task(base=LiveTask, bind=True)
def run_a_loop(self: LiveTask) -> None:
    """Run an event loop in which one task cancels another that is being awaited."""

    async def main() -> None:
        shared = asyncio.ensure_future(asyncio.sleep(60))
        asyncio.get_running_loop().call_soon(shared.cancel)
        await shared

    asyncio.run(main())


@app.task(base=LiveTask, bind=True, max_retries=2)
def try_again(self: LiveTask) -> str:
    if self.request.retries < 2:
        raise self.retry(countdown=0, exc=ConnectionError("away"))
    return "in the end"


@app.task(base=LiveTask, bind=True)
def die(self: LiveTask) -> None:
    os._exit(9)


@app.task(base=LiveTask, bind=True)
def name_types(self: LiveTask, *values: object) -> str:
    return " ".join(type(value).__name__ for value in values)


@app.task(base=LiveTask, bind=True)
def endless(self: LiveTask) -> None:
    while True:
        self.progress(0)
        time.sleep(0.01)


@app.task(base=LiveTask, bind=True, soft_time_limit=1, time_limit=2)
def hang(self: LiveTask) -> None:
    while True:
        try:
            time.sleep(60)
        except Exception:  # noqa: BLE001 - it is that bad
            continue


class InPublic(LiveTask):
    abstract = True

    def live_channel(self, task_id: str, user: str) -> str:
        return "public:jobs"


@app.task(base=InPublic, bind=True)
def count_in_public(self: LiveTask, total: int, seconds: float) -> None:
    for done in range(1, total + 1):
        self.progress(done, total)
        time.sleep(seconds)


class Nowhere(LiveTask):
    abstract = True

    def live_channel(self, task_id: str, user: str) -> str:
        return "no-such-namespace:a"


@app.task(base=Nowhere, bind=True)
def unheard(self: LiveTask) -> str:
    self.progress(1, 2)
    return "done all the same"
