"""Background jobs with live progress: Celery on the same Redis, or your own Celery anywhere.

A host only writes ``@shared_task(base=LiveTask, bind=True)``. Each state of a task (waiting,
started, progress, succeeded, failed, retried, cancelled) is published to a channel, and can be read
for a day. See docs/jobs.md. Needs ``pip install 'django-realtime-notifier[celery]'``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

from celery import Celery, Task
from celery.exceptions import Ignore, TaskPredicate
from kombu.utils.uuid import uuid

from realtime import wiring
from realtime.contrib import sweep
from realtime.contrib.calls import TRACE, encode_call, seconds_until, trace_of, user_of
from realtime.contrib.celery_settings import kombu_url, redis_settings, task_settings
from realtime.contrib.pace import PACE_SECONDS
from realtime.contrib.records import State, records
from realtime.contrib.reporter import Cancelled, Reporter
from realtime.contrib.state_publisher import StatePublisher, contain_telling, shorten
from realtime.core.names import personal_channel
from realtime.host.user_tokens import id_of

__all__ = ["Cancelled", "JobFailed", "LiveTask", "cancel_task", "celery_app", "kombu_url"]
__all__ += ["ENDS", "redis_settings", "task_states"]

TASK_SECONDS = 600
"""Default time limit of a task."""
ENDS = frozenset({"succeeded", "failed", "cancelled"})
STARTS_LIMIT = 5
"""Starts without an end after which a task is assumed to kill its workers, and fails."""


class JobFailed(Exception):
    """Raise this in a task to tell its users why it failed, and what they can do."""


def celery_app(name: str, *, task_seconds: float = TASK_SECONDS, **options: Any) -> Celery:
    """Return a Celery app on our Redis, configured so that no task is lost with its worker.

    Args:
        name: The name of the project.
        task_seconds: The time limit of a task. If a worker is lost, its messages are delivered
            again a little after that time (the *visibility timeout*), never while a task runs.
        options: Settings of Celery that replace ours.
    """
    app = Celery(name)
    app.conf.update(options)
    # Evaluated at first use: importing this must not need the URL of Redis.
    app.add_defaults(lambda: {**redis_settings(task_seconds), **task_settings(task_seconds)})
    return app


class LiveTask(Task):  # type: ignore[misc]
    """Base class of tasks with live states: ``@shared_task(base=LiveTask, bind=True)``.

    A subclass that overrides `on_success`, `on_failure`, `retry` or `apply_async` must call super.
    """

    abstract = True
    live_seconds = PACE_SECONDS
    """The shortest interval between two progress states; only the newest in it is sent."""
    live_fallback: str | None = None
    """The fallback for the last state if no node is subscribed, see docs/fallbacks.md."""

    def start(self, *args: Any, live_user: Any = None, **kwargs: Any) -> str:
        """Send the task, and return its id.

        Args:
            args: Positional arguments of the task.
            live_user: A Django user, or the id of one. The states are published to the personal
                channel of that user (``user:#42``), by default to ``job:`` and the task's id, which
                cannot be guessed. Anyone who knows it may subscribe.
            kwargs: Keyword arguments of the task.
        """
        headers = {} if live_user is None else {"live_user": id_of(live_user)}
        return str(self.apply_async(args, kwargs, headers=headers).id)

    def progress(self, done: float, total: float | None = None, message: str = "") -> None:
        """Report progress. Call it as often as you like; errors of reporting never fail the task.

        Args:
            done: The amount that is done, in any unit.
            total: The whole amount, if it is known.
            message: One sentence for users.

        Raises:
            Cancelled: The task has been cancelled.
        """
        if (reporter := _reporters.get(self.request.id)) is not None:
            reporter.report(done=done, total=total, message=shorten(message))

    def check_cancelled(self) -> None:
        """Raise if the task has been cancelled; `progress` checks this too, whenever it sends.

        Raises:
            Cancelled: The task has been cancelled.
        """
        with contain_telling():
            if records().is_cancelled(self.request.id):
                raise Cancelled

    def live_channel(self, task_id: str, user: str) -> str:
        """Return the channel for the states of a task; override it for another.

        Args:
            task_id: The id of the task.
            user: The user for whom it was started, or empty.
        """
        prefix = wiring.settings().personal_channel
        own = personal_channel(prefix, user) if user and prefix else None
        return own or f"job:{task_id}"

    def live_end(self, state: State) -> dict[str, Any]:
        """Return more arguments for publishing the last state, such as options of the fallback."""
        return {"fallback": self.live_fallback} if self.live_fallback else {}

    @property
    def _states(self) -> StatePublisher:
        return StatePublisher(self)

    # --- what Celery calls ---

    def apply_async(
        self, args: Any = None, kwargs: Any = None, task_id: str | None = None, **options: Any
    ) -> Any:
        """Send the task as Celery does, and publish that it is waiting."""
        if options.get("retries"):
            return super().apply_async(args, kwargs, task_id=task_id, **options)
        task_id = task_id or uuid()
        with wiring.send_job(self.name, task_id) as trace:
            if trace:
                options["headers"] = {**(options.get("headers") or {}), TRACE: trace}
            return self._send(args, kwargs, task_id, options, trace)

    def _send(
        self, args: Any, kwargs: Any, task_id: str, options: dict[str, Any], trace: str
    ) -> Any:
        user = user_of(options.get("headers"))
        with contain_telling():
            state = self._states.make(task_id, "waiting")
            delay = seconds_until(options.get("countdown"), options.get("eta"))
            call = encode_call(self.name, args, kwargs, user, trace)
            records().add(task_id, state, call, delay)
            self._states.publish(state, user)
        is_sent = self.app.conf.task_always_eager  # an eager task has published its end already
        try:
            result = super().apply_async(args, kwargs, task_id=task_id, **options)
            is_sent = True
        finally:
            if not is_sent:  # the caller gets the error, so the sweep must not send it later
                self._states.tell_end(
                    task_id, user, "failed", "the task could not be queued", pauses=(0.0,)
                )
        return result

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task in a worker: publish that it started, and stop if it is cancelled."""
        request = self.request
        if request.called_directly:
            return super().__call__(*args, **kwargs)
        # A retry, or a task that is to be ignored, is a `TaskPredicate`: no error.
        with wiring.run_job(self.name, request.id, trace_of(request), TaskPredicate):
            return self._run(args, kwargs)

    def _run(self, args: Any, kwargs: Any) -> Any:
        request = self.request
        task_id = request.id
        begun = self._begin(task_id)
        if begun is not None and begun.state is not None and begun.state.get("state") in ENDS:
            # Delivered twice; the first worker may have died before it published the end.
            self._states.repeat_end(begun.state, user_of(request))
            raise Ignore
        try:
            if begun is not None and begun.is_cancelled:
                raise Cancelled
            if begun is not None and begun.starts - request.retries > STARTS_LIMIT:
                raise JobFailed(
                    f"the task was started {STARTS_LIMIT} times, and its worker died each time"
                )
            run = {"run": begun.starts} if begun and begun.starts > 1 else {}
            # Passes the user, not the request: the thread of a timer has no request.
            tell = partial(self._states.tell, task_id, user_of(request), run)
            reporter = Reporter(tell, self.live_seconds)
            _reporters[task_id] = reporter
            try:
                reporter.say("started")
                return self.run(*args, **kwargs)  # Celery's `__call__` would push another request
            finally:
                del _reporters[task_id]
                reporter.close()
        except Cancelled:
            if not request.ignore_result:
                self.backend.mark_as_revoked(task_id, "cancelled", request=request)
            self._states.tell_end(task_id, user_of(request), "cancelled")
            raise Ignore from None
        except asyncio.CancelledError as error:
            # Raised by an `asyncio.run` in the task. Not an `Exception`, so Celery would record no
            # failure: the pool process would end, and the task would start again.
            raise RuntimeError("an asyncio task in this task was cancelled") from error

    def _begin(self, task_id: str) -> Any:
        begun = None
        with contain_telling():
            begun = records().note_start(task_id)
        return begun

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        """Publish the last state."""
        message = shorten(retval) if isinstance(retval, str) else ""
        self._states.tell_end(task_id, user_of(self.request), "succeeded", message=message)

    def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Publish the last state, with the text of a `JobFailed` or the type of any other error."""
        if isinstance(exc, JobFailed):
            message = shorten(str(exc))
        else:
            message = f"{type(exc).__name__}: see the log of the worker, task {task_id}"
        self._states.tell_end(task_id, user_of(self.request), "failed", message=message)

    def retry(self, args: Any = None, kwargs: Any = None, exc: Any = None, **options: Any) -> Any:
        """Retry as Celery does, but publish it first: the next run may start immediately."""
        request, most = self.request, options.get("max_retries", self.max_retries)
        if request.id and not request.called_directly and (most is None or request.retries < most):
            message = shorten(str(exc)) if isinstance(exc, JobFailed) else type(exc).__name__
            with contain_telling():
                state = self._states.make(request.id, "retried", message=message if exc else "")
                delay = options.get("countdown", self.default_retry_delay)
                records().note_state(request.id, state, seconds_until(delay, options.get("eta")))
                self._states.publish(state, user_of(request))
        return super().retry(args, kwargs, exc, **options)


_reporters: dict[str, Reporter] = {}
sweep.watch_workers()


def task_states(task_ids: Sequence[str]) -> list[State | None]:
    """Return the newest state of each task; None if it is unknown or has expired.

    Raises:
        BrokerUnavailable: Redis is unreachable.
    """
    return records().states(task_ids)


def cancel_task(task_id: str) -> None:
    """Cancel a task: it ends at its next progress report, or before it starts.

    Raises:
        BrokerUnavailable: The task is certainly not cancelled.
        OutcomeUnknown: The task may be cancelled; calling this again is safe.
    """
    records().cancel(task_id)
