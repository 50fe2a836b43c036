"""Records and publishes the states of a task, without failing the task."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from celery.exceptions import SoftTimeLimitExceeded
from celery.utils.log import get_task_logger

from realtime import wiring
from realtime.auth.containment import contain_errors
from realtime.contrib.records import State, log_unpublished, records
from realtime.core.tally import Tally
from realtime.errors import BrokerError, RealtimeError
from realtime.host.publishing import make_publication

logger = get_task_logger("realtime.contrib.celery")

END_PAUSES = (0.0, 0.4, 0.8, 1.6, 3.2)
"""Seconds before each attempt to publish the last state of a task: no later state replaces it."""
MESSAGE_LIMIT = 500  # characters
_PUBLISHING_STATE = ("publishing the state of a task", "its watchers miss an update")


class ReportedTask(Protocol):
    """The interface of a task that a `StatePublisher` uses; `LiveTask` implements it."""

    name: str

    def live_channel(self, task_id: str, user: str) -> str:
        """Return the channel for the states of one run."""

    def live_end(self, state: State) -> dict[str, Any]:
        """Return more arguments for publishing the last state."""


class StatePublisher:
    """Publishes the states of all runs of one task; stateless itself."""

    def __init__(self, task: ReportedTask) -> None:
        self._task = task

    def make(self, task_id: str, word: str, **more: Any) -> State:
        """Return the current state of a task, without empty fields."""
        return {
            "task": task_id,
            "name": self._task.name,
            "state": word,
            "at": round(time.time(), 3),
            **{name: value for name, value in more.items() if value not in (None, "")},
        }

    def tell(
        self, task_id: str, user: str, run: dict[str, Any], word: str, more: dict[str, Any]
    ) -> bool:
        """Record and publish a state; return whether the task has been cancelled.

        Raises:
            BrokerError: It may not have been recorded or published.
        """
        is_cancelled = False
        with contain_telling(but=(BrokerError,)):
            state = self.make(task_id, word, **run, **more)
            is_cancelled = records().note_state(task_id, state)
            self.publish(state, user)
        return is_cancelled

    def tell_end(
        self,
        task_id: str,
        user: str,
        word: str,
        message: str = "",
        pauses: Sequence[float] = END_PAUSES,
    ) -> None:
        """Record and publish the last state of a task."""
        name = self._task.name.rpartition(".")[2].replace("_", " ")
        state = self.make(
            task_id, word, message=message, title=f"{name}: {word}", text=message or word
        )
        self.repeat_end(state, user, pauses)

    def repeat_end(self, state: State, user: str, pauses: Sequence[float] = END_PAUSES) -> None:
        """Record and publish a given last state; retry while Redis is unreachable."""
        key = f"{state['task']}-{state['state']}"
        for pause in pauses:
            time.sleep(pause)
            try:
                with contain_telling(but=(BrokerError,)):
                    records().note_end(state["task"], state)
                    self.publish(state, user, idempotency_key=key, **self._task.live_end(state))
            except BrokerError as error:
                log_unpublished(error)
            else:
                return

    def publish(self, state: State, user: str, **options: Any) -> None:
        """Publish one state. In an event loop this blocks, as sending a task does anyway.

        Raises:
            BrokerError: It may not have been published.
        """
        channel, event = self._task.live_channel(state["task"], user), f"job.{state['state']}"
        try:
            wiring.publish_sync(make_publication(channel, state, event=event, **options))
        except BrokerError:
            raise
        except RealtimeError as error:  # for example an unknown namespace or fallback
            if _unpublished.add(self._task.name, time.monotonic()) is not None:
                logger.error("cannot publish the states of %s: %s", self._task.name, error)


_unpublished = Tally()


@contextmanager
def contain_telling(*, but: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Log errors of publishing a state instead of raising them: the task itself must not fail.

    Args:
        but: Errors to raise nevertheless, because the caller handles them.
    """
    try:
        # Celery raises its soft time limit from a signal handler, at any point of the task.
        with contain_errors(*_PUBLISHING_STATE, but=(SoftTimeLimitExceeded, BrokerError)):
            yield
    except but:
        raise
    except BrokerError as error:
        log_unpublished(error)


def shorten(text: Any) -> str:
    """Return a text for users, cut to `MESSAGE_LIMIT`."""
    text = str(text)
    return text if len(text) <= MESSAGE_LIMIT else f"{text[:MESSAGE_LIMIT]}…"
