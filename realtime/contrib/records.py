"""The record of each task in our Redis: its newest state, its call, and how often it started.

Publications are not replayed, so a page that is opened while a task runs, or that has a gap, reads
the state here. The records also reveal tasks whose message was lost, because their state does not
change.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from realtime import wiring
from realtime.brokers.partition_sync import SyncRedis
from realtime.brokers.script import Args
from realtime.core.json_text import decode_json
from realtime.core.outage import Outage
from realtime.errors import InvalidData

logger = logging.getLogger(__name__)

RECORD_SECONDS = 86_400
"""How long a record is kept after its last change; Celery also keeps results for a day."""
RECORDS_AT_ONCE = 100

State = dict[str, Any]
_encode = msgspec.json.Encoder().encode


class TaskStart(NamedTuple):
    """The record of a task at one of its starts."""

    starts: int
    """How often the task has started, including this time."""
    state: State | None
    is_cancelled: bool


class Records:
    """The records of all tasks. All methods raise `BrokerError`."""

    def __init__(self, broker: SyncRedis) -> None:
        self._broker = broker

    def add(self, task_id: str, state: State, call: str, delay: float = 0.0) -> None:
        """Create the record of a task before it is sent; replace an earlier one with the same id.

        Args:
            task_id: The id of the task.
            state: Its first state.
            call: The call with which `silent` yields the task; empty if it cannot be sent again.
            delay: Seconds until the task may start, during which it does not count as silent.
        """
        fresh = ("call", call, "starts", 0, "cancel", "")
        self._ask(
            [
                ("HSET", self._key(task_id), "state", _encode(state), *fresh),
                ("EXPIRE", self._key(task_id), RECORD_SECONDS + int(delay)),
                ("ZADD", self._open, _now(delay), task_id),
                # In case no sweep runs: after so long a silence, the record of a task has expired.
                ("ZREMRANGEBYSCORE", self._open, "-inf", _now(-RECORD_SECONDS)),
            ]
        )

    def note_start(self, task_id: str) -> TaskStart:
        """Record that a worker starts a task, perhaps not for the first time; return the record."""
        starts, _, _, (state, cancelled) = self._ask(
            [
                ("HINCRBY", self._key(task_id), "starts", 1),
                ("EXPIRE", self._key(task_id), RECORD_SECONDS),
                ("ZADD", self._open, _now(), task_id),
                ("HMGET", self._key(task_id), "state", "cancel"),
            ]
        )
        return TaskStart(starts, _state(state), bool(cancelled))

    def note_state(self, task_id: str, state: State, delay: float = 0.0) -> bool:
        """Record a state of a task; return whether the task has been cancelled."""
        *_, [cancelled] = self._ask(
            [
                ("HSET", self._key(task_id), "state", _encode(state)),
                ("EXPIRE", self._key(task_id), RECORD_SECONDS + int(delay)),
                ("ZADD", self._open, _now(delay), task_id),
                ("HMGET", self._key(task_id), "cancel"),
            ]
        )
        return bool(cancelled)

    def note_end(self, task_id: str, state: State) -> None:
        """Record the last state of a task."""
        self._ask(
            [
                ("HSET", self._key(task_id), "state", _encode(state)),
                ("EXPIRE", self._key(task_id), RECORD_SECONDS),
                ("ZREM", self._open, task_id),
            ]
        )

    def cancel(self, task_id: str) -> None:
        """Mark a task as cancelled; it checks this when it reports progress."""
        self._ask(
            [
                ("HSET", self._key(task_id), "cancel", "1"),
                ("EXPIRE", self._key(task_id), RECORD_SECONDS),
            ]
        )

    def is_cancelled(self, task_id: str) -> bool:
        """Tell whether a task has been cancelled."""
        [[cancelled]] = self._ask([("HMGET", self._key(task_id), "cancel")])
        return bool(cancelled)

    def states(self, task_ids: Sequence[str]) -> list[State | None]:
        """Return the newest state of each task; None if it is unknown or has expired."""
        asked = [("HMGET", self._key(task_id), "state") for task_id in task_ids]
        return [_state(found) for [found] in self._ask(asked)]

    def silent(self, seconds: float) -> Iterable[tuple[str, str]]:
        """Yield tasks whose record has not changed for so long, with their calls."""
        until = f"{time.time() - seconds:.3f}"
        [found] = self._ask(
            [("ZRANGEBYSCORE", self._open, "-inf", until, "LIMIT", 0, RECORDS_AT_ONCE)]
        )
        for raw in found:
            task_id = raw.decode()
            [[call]] = self._ask([("HMGET", self._key(task_id), "call")])
            yield task_id, (call or b"").decode()

    def forget(self, task_id: str) -> None:
        """Never yield a task as silent again, unless its record changes."""
        self._ask([("ZREM", self._open, task_id)])

    def restart_silence(self, task_id: str) -> None:
        """Count the silence of a task from now."""
        self._ask([("ZADD", self._open, _now(), task_id)])

    def _ask(self, commands: Sequence[Args]) -> list[Any]:
        replies = self._broker.ask(commands)
        if (over := _outage.note_success(time.monotonic())) is not None:
            logger.info(
                "publishing progress works again after %d failures within %.0f s",
                over.failures,
                over.seconds,
            )
        return replies

    @property
    def _open(self) -> str:
        return self._broker.beside("jobs:", "open")

    def _key(self, task_id: str) -> str:
        return self._broker.beside("job:", task_id)


_outage = Outage()


def records() -> Records:
    """Return the records of all tasks."""
    return Records(wiring.redis_broker())


def log_unpublished(error: Exception) -> None:
    """Log that states cannot be published or read; one line per outage."""
    if _outage.note_failure(time.monotonic()):
        logger.warning("cannot publish the progress of tasks: %s", error)


def _now(delay: float = 0.0) -> str:
    return f"{time.time() + delay:.3f}"


def _state(raw: bytes | None) -> State | None:
    if raw is None:
        return None
    try:
        found = decode_json(raw)
    except InvalidData:  # not written by this service
        return None
    return found if isinstance(found, dict) else None
