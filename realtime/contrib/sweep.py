"""Sends tasks again of which nothing is heard.

Celery takes a message off the list in Redis and then writes down that it has it: a worker that is
killed in between loses it for ever. Nobody waits behind such a task, so it is looked for when no
message waits in the queue (ADR-0019).
"""

from __future__ import annotations

import threading
import time
from typing import Any
from urllib.parse import urlsplit

from celery import Celery, current_app, signals
from celery.utils.log import get_task_logger
from kombu.exceptions import OperationalError
from kombu.utils import json
from redis import RedisError

from realtime.contrib.records import records
from realtime.errors import BrokerError
from realtime.outage import Outage

logger = get_task_logger(__name__)


class Sweep:
    """A thread in the process of a worker; whoever makes it stops it."""

    def __init__(self, app: Celery) -> None:
        """Begin to look, now and then."""
        options = app.conf.broker_transport_options
        self._app = app
        self._silence = float(options.get("visibility_timeout", 3600)) * 1.5
        self._outage = Outage()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="realtime sweep", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End, and wait for that."""
        self._ending.set()
        self._thread.join(5)

    def _run(self) -> None:
        while not self._ending.wait(max(1.0, min(30.0, self._silence / 10))):
            try:
                self._sweep()
            except (BrokerError, OperationalError, RedisError, OSError) as error:
                if self._outage.failed(time.monotonic()):
                    logger.warning("lost tasks cannot be looked for: %s", error)
            else:
                self._outage.worked(time.monotonic())

    def _sweep(self) -> None:
        silent = list(records().silent(self._silence))
        if not silent or self._waiting():
            return
        for task_id, text in silent:
            if (call := _read(text)) is None:
                logger.error(
                    "task %s cannot be sent again: what it was called with is not known", task_id
                )
                records().forget(task_id)
                continue
            logger.warning("task %s is sent again: nothing was heard of it", task_id)
            self._app.send_task(
                call["task"], call["args"], call["kwargs"], task_id=task_id, headers=call["headers"]
            )
            records().heard_of(task_id)

    def _waiting(self) -> int:
        with self._app.connection_for_read() as connection:
            queue = self._app.conf.task_default_queue
            # Not `passive`: kombu then asks for a key without the prefix, and finds none.
            return int(connection.default_channel.queue_declare(queue).message_count)


def _read(text: str) -> Any:
    try:
        return json.loads(text)  # type: ignore[no-untyped-call]
    except ValueError:  # empty, or with a type that is registered only where it was sent
        return None


_sweeps: list[Sweep] = []


def watch_workers() -> None:
    """Let each worker process of this interpreter have one."""
    signals.worker_ready.connect(_start_sweep)
    signals.worker_shutting_down.connect(_stop_sweep)


def _start_sweep(sender: Any = None, **kwargs: Any) -> None:
    app = sender.app if sender is not None else current_app
    if urlsplit(app.conf.broker_url or "").scheme.startswith("redis"):
        _sweeps.append(Sweep(app))


def _stop_sweep(**kwargs: Any) -> None:
    while _sweeps:
        _sweeps.pop().stop()
