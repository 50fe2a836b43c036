"""What is known of each task, in our Redis: its newest state, what it was called with, its starts.

Live is not replayed: whoever opens a page in the middle, or comes back after a gap, reads the state
here. And a task whose message was lost is found here, since nothing was heard of it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from realtime import wiring
from realtime.brokers.redis_sync import SyncRedisBroker
from realtime.brokers.script import Args
from realtime.errors import InvalidData
from realtime.outage import Outage
from realtime.publication import decoded

logger = logging.getLogger(__name__)

KEPT_SECONDS = 86_400
"""After the last word of a task. Celery keeps results for a day, too."""
LOT = 100

State = dict[str, Any]
_encode = msgspec.json.Encoder().encode


class Begun(NamedTuple):
    """What was known of a task when it began."""

    starts: int
    """How often it has begun by now."""
    state: State | None
    is_cancelled: bool


class Records:
    """The records of all tasks. All methods raise `BrokerError`."""

    def __init__(self, broker: SyncRedisBroker) -> None:
        self._broker = broker

    def sent(self, task_id: str, state: State, call: str, delay: float = 0.0) -> None:
        """A task is about to be sent, with the call by which it can be sent again.

        Whatever was known of another one with its id is forgotten.

        Args:
            task_id: Which.
            state: What is known of it.
            call: Whatever `silent` is to yield; empty where it cannot be sent again.
            delay: Seconds before which nothing is to be heard of it.
        """
        fresh = ("call", call, "starts", 0, "cancel", "")
        self._ask(
            [
                ("HSET", self._key(task_id), "state", _encode(state), *fresh),
                ("EXPIRE", self._key(task_id), KEPT_SECONDS + int(delay)),
                ("ZADD", self._open, _now(delay), task_id),
                # Where nobody sweeps: what was last heard of so long ago has no record any more.
                ("ZREMRANGEBYSCORE", self._open, "-inf", _now(-KEPT_SECONDS)),
            ]
        )

    def begins(self, task_id: str) -> Begun:
        """A worker begins a task; perhaps another one did before."""
        starts, _, _, (state, cancelled) = self._ask(
            [
                ("HINCRBY", self._key(task_id), "starts", 1),
                ("EXPIRE", self._key(task_id), KEPT_SECONDS),
                ("ZADD", self._open, _now(), task_id),
                ("HMGET", self._key(task_id), "state", "cancel"),
            ]
        )
        return Begun(starts, _state(state), bool(cancelled))

    def goes_on(self, task_id: str, state: State, delay: float = 0.0) -> bool:
        """A task has something to say; return whether somebody has cancelled it."""
        *_, [cancelled] = self._ask(
            [
                ("HSET", self._key(task_id), "state", _encode(state)),
                ("EXPIRE", self._key(task_id), KEPT_SECONDS + int(delay)),
                ("ZADD", self._open, _now(delay), task_id),
                ("HMGET", self._key(task_id), "cancel"),
            ]
        )
        return bool(cancelled)

    def ended(self, task_id: str, state: State) -> None:
        """A task has ended, and this is its last state."""
        self._ask(
            [
                ("HSET", self._key(task_id), "state", _encode(state)),
                ("EXPIRE", self._key(task_id), KEPT_SECONDS),
                ("ZREM", self._open, task_id),
            ]
        )

    def cancel(self, task_id: str) -> None:
        """Let a task know that it is to end; it looks when it tells its progress."""
        self._ask(
            [
                ("HSET", self._key(task_id), "cancel", "1"),
                ("EXPIRE", self._key(task_id), KEPT_SECONDS),
            ]
        )

    def is_cancelled(self, task_id: str) -> bool:
        """Tell whether somebody has cancelled a task."""
        [[cancelled]] = self._ask([("HMGET", self._key(task_id), "cancel")])
        return bool(cancelled)

    def states(self, task_ids: Sequence[str]) -> list[State | None]:
        """Return the newest state of each task; None of those that nothing is known of any more."""
        asked = [("HMGET", self._key(task_id), "state") for task_id in task_ids]
        return [_state(found) for [found] in self._ask(asked)]

    def silent(self, seconds: float) -> Iterable[tuple[str, str]]:
        """Yield tasks of which nothing was heard for so long, with their calls."""
        until = f"{time.time() - seconds:.3f}"
        [found] = self._ask([("ZRANGEBYSCORE", self._open, "-inf", until, "LIMIT", 0, LOT)])
        for raw in found:
            task_id = raw.decode()
            [[call]] = self._ask([("HMGET", self._key(task_id), "call")])
            yield task_id, (call or b"").decode()

    def forget(self, task_id: str) -> None:
        """Yield a task as silent no more."""
        self._ask([("ZREM", self._open, task_id)])

    def heard_of(self, task_id: str) -> None:
        """Begin the silence anew."""
        self._ask([("ZADD", self._open, _now(), task_id)])

    def _ask(self, commands: Sequence[Args]) -> list[Any]:
        replies = self._broker.ask(commands)
        if (over := _outage.worked(time.monotonic())) is not None:
            logger.info(
                "progress is told again: %d times it was not, within %.0f s",
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
    """Return what is known of all tasks."""
    return Records(wiring.sync_broker())


def told_nothing(error: Exception) -> None:
    """Note that something could not be told or asked; the log says so once, until it can."""
    if _outage.failed(time.monotonic()):
        logger.warning("progress cannot be told: %s", error)


def _now(delay: float = 0.0) -> str:
    return f"{time.time() + delay:.3f}"


def _state(raw: bytes | None) -> State | None:
    if raw is None:
        return None
    try:
        found = decoded(raw)
    except InvalidData:  # somebody else's
        return None
    return found if isinstance(found, dict) else None
