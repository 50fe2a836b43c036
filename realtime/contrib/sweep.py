"""Sends silent tasks again, whose message may have been lost.

Celery removes a message from the list in Redis before it records the message as unacknowledged. A
worker that is killed in between loses the message. As long as other messages wait, a silent task
may just be waiting too, so lost ones are searched for when the queue is empty (ADR-0019).
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
from realtime.core.outage import Outage
from realtime.errors import BrokerError

logger = get_task_logger(__name__)


class Sweep:
    """A thread in the process of a worker; its creator stops it."""

    def __init__(self, app: Celery) -> None:
        """Start the periodic search."""
        options = app.conf.broker_transport_options
        self._app = app
        self._silence = float(options.get("visibility_timeout", 3600)) * 1.5
        self._outage = Outage()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="realtime sweep", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread, and wait for its end."""
        self._ending.set()
        self._thread.join(5)

    def _run(self) -> None:
        while not self._ending.wait(max(1.0, min(30.0, self._silence / 10))):
            try:
                self._sweep()
            except (BrokerError, OperationalError, RedisError, OSError) as error:
                if self._outage.note_failure(time.monotonic()):
                    logger.warning("cannot look for lost tasks: %s", error)
            else:
                self._outage.note_success(time.monotonic())

    def _sweep(self) -> None:
        silent = list(records().silent(self._silence))
        if not silent or self._waiting():
            return
        for task_id, text in silent:
            if (call := _read(text)) is None:
                logger.error("cannot send task %s again: its arguments are unknown", task_id)
                records().forget(task_id)
                continue
            if call["task"] not in self._app.tasks:
                continue  # of another project on this Redis, whose workers look for it
            logger.warning("sending task %s again: its message seems to be lost", task_id)
            self._app.send_task(
                call["task"], call["args"], call["kwargs"], task_id=task_id, headers=call["headers"]
            )
            records().restart_silence(task_id)

    def _waiting(self) -> int:
        with self._app.connection_for_read() as connection:
            queue = self._app.conf.task_default_queue
            # Not ``passive``, with which kombu looks for a key without the prefix, and finds none.
            return int(connection.default_channel.queue_declare(queue).message_count)


def _read(text: str) -> Any:
    try:
        return json.loads(text)  # type: ignore[no-untyped-call]
    except ValueError:  # empty, or with a type that is not registered in this process
        return None


_sweeps: list[Sweep] = []


def watch_workers() -> None:
    """Start a sweep in each worker process of this interpreter."""
    signals.worker_ready.connect(_start_sweep)
    signals.worker_shutting_down.connect(_stop_sweep)


def _start_sweep(sender: Any = None, **kwargs: Any) -> None:
    app = sender.app if sender is not None else current_app
    if urlsplit(app.conf.broker_url or "").scheme.startswith("redis"):
        _sweeps.append(Sweep(app))


def _stop_sweep(**kwargs: Any) -> None:
    while _sweeps:
        _sweeps.pop().stop()
