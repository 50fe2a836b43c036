"""Background jobs with live progress: Celery on the same Redis, or your own Celery anywhere.

``@shared_task(base=LiveTask, bind=True)`` is all that a host writes. Each state of a task (waiting,
started, progress, succeeded, failed, retried, cancelled) goes to a channel, and can be fetched for
a day. See docs/jobs.md. Needs ``pip install 'django-realtime-notifier[celery]'``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any

from celery import Celery, Task
from celery.exceptions import Ignore, SoftTimeLimitExceeded
from celery.utils.log import get_task_logger
from kombu.utils import json
from kombu.utils.uuid import uuid

from realtime import wiring
from realtime.containment import contain_errors
from realtime.contrib import sweep
from realtime.contrib.celery_settings import kombu_url, redis_settings, task_settings
from realtime.contrib.pace import PACE_SECONDS
from realtime.contrib.records import State, records, told_nothing
from realtime.contrib.reporter import Cancelled, Reporter
from realtime.errors import BrokerError, RealtimeError
from realtime.names import personal_channel
from realtime.shortcuts import admitted, id_of
from realtime.tally import Tally

__all__ = ["Cancelled", "JobFailed", "LiveTask", "cancel_task", "celery_app", "kombu_url"]
__all__ += ["ENDS", "redis_settings", "task_states"]
logger = get_task_logger(__name__)

TASK_SECONDS = 600
"""How long a task may take, unless it or the app says otherwise."""
ENDS = frozenset({"succeeded", "failed", "cancelled"})
STARTS_LIMIT = 5
"""A task that began so often without an end kills its workers, and is begun no more."""
END_PAUSES = (0.0, 0.4, 0.8, 1.6, 3.2)
"""Seconds before each attempt to say the last word: nobody says it later."""
MESSAGE_LIMIT = 500  # characters
_TELLING = ("telling the state of a task", "whoever watches the task is told less")


class JobFailed(Exception):
    """Raise it in a task to say to people why it failed, and what they can do."""


def celery_app(name: str, *, task_seconds: float = TASK_SECONDS, **options: Any) -> Celery:
    """Return a Celery app on our Redis, set so that no task is lost with its worker.

    Args:
        name: Of the project.
        task_seconds: How long a task may take at most. A message comes back a little later than
            that (the *visibility timeout*) if its worker was lost: never while it still works.
        options: Settings of Celery, in place of these.
    """
    app = Celery(name)
    app.conf.update(options)
    # When it is first used: importing it must not need an address of Redis.
    app.add_defaults(lambda: {**redis_settings(task_seconds), **task_settings(task_seconds)})
    return app


class LiveTask(Task):  # type: ignore[misc]
    """A task whose states are live. The base of yours: ``@shared_task(base=LiveTask, bind=True)``.

    Where a subclass overrides `on_success`, `on_failure`, `retry` or `apply_async`, it calls these.
    """

    abstract = True
    live_seconds = PACE_SECONDS
    """Between two words about its progress; more often it may be told, and is not sent."""
    live_fallback: str | None = None
    """Who gets its end where nobody listens, see docs/fallbacks.md."""

    def start(self, *args: Any, live_user: Any = None, **kwargs: Any) -> str:
        """Send the task, and return its id.

        Args:
            args: Its arguments.
            live_user: A user of Django, or the id of one: its states go to this user's channel,
                ``user:#42``. Without one they go to ``job:`` and the id, which nobody can guess,
                and whoever knows it may listen to.
            kwargs: Its arguments.
        """
        headers = {} if live_user is None else {"live_user": id_of(live_user)}
        return str(self.apply_async(args, kwargs, headers=headers).id)

    def progress(self, done: float, total: float | None = None, message: str = "") -> None:
        """Tell how far it has come. Call it as often as you like; it never fails the task.

        Args:
            done: So much, in whatever unit.
            total: Of so much, if that is known.
            message: One sentence for people.

        Raises:
            Cancelled: Somebody has cancelled it.
        """
        if (reporter := _reporters.get(self.request.id)) is not None:
            reporter.report(done=done, total=total, message=_short(message))

    def check_cancelled(self) -> None:
        """Go on only if nobody has cancelled it; `progress` looks as well, as often as it tells.

        Raises:
            Cancelled: Somebody has.
        """
        with _never_failing_the_task():
            if records().is_cancelled(self.request.id):
                raise Cancelled

    def live_channel(self, task_id: str, user: str) -> str:
        """Return where the states of a task go; to be overridden.

        Args:
            task_id: Its id.
            user: For whom it was started; empty is nobody.
        """
        prefix = wiring.settings().personal_channel
        own = personal_channel(prefix, user) if user and prefix else None
        return own or f"job:{task_id}"

    def live_end(self, state: State) -> dict[str, Any]:
        """Return more arguments for the `publish` of an end, such as options of the fallback."""
        return {"fallback": self.live_fallback} if self.live_fallback else {}

    # --- what Celery calls ---

    def apply_async(
        self, args: Any = None, kwargs: Any = None, task_id: str | None = None, **options: Any
    ) -> Any:
        """Send it, as Celery does; and say that it waits."""
        if options.get("retries"):
            return super().apply_async(args, kwargs, task_id=task_id, **options)
        task_id = task_id or uuid()
        user = _user_of(options.get("headers"))
        with _never_failing_the_task():
            state = self._state(task_id, "waiting")
            delay = _seconds_until(options.get("countdown"), options.get("eta"))
            records().sent(task_id, state, _call(self.name, args, kwargs, user), delay)
            self._publish(state, user)
        is_sent = self.app.conf.task_always_eager  # such a one runs here, and tells its own end
        try:
            result = super().apply_async(args, kwargs, task_id=task_id, **options)
            is_sent = True
        finally:
            if not is_sent:  # whoever was told that does not want it sent again later
                self._end(task_id, user, "failed", "it could not be sent", pauses=(0.0,))
        return result

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it, in a worker: with its beginning told, and its cancellation heeded."""
        request = self.request
        if request.called_directly:
            return super().__call__(*args, **kwargs)
        task_id = request.id
        begun = self._begin(task_id)
        if begun is not None and begun.state is not None and begun.state.get("state") in ENDS:
            # It came twice, and its worker may have ended before it published the end.
            self._say_end(begun.state, _user_of(request))
            raise Ignore
        try:
            if begun is not None and begun.is_cancelled:
                raise Cancelled
            if begun is not None and begun.starts - request.retries > STARTS_LIMIT:
                raise JobFailed(f"it began {STARTS_LIMIT} times, and its worker died each time")
            run = {"run": begun.starts} if begun and begun.starts > 1 else {}
            # With the user, not the request: a timer's thread has none.
            tell = partial(self._tell, task_id, _user_of(request), run)
            reporter = Reporter(tell, self.live_seconds)
            _reporters[task_id] = reporter
            try:
                reporter.say("started")
                return self.run(*args, **kwargs)  # Celery's own would begin another request
            finally:
                del _reporters[task_id]
                reporter.close()
        except Cancelled:
            if not request.ignore_result:
                self.backend.mark_as_revoked(task_id, "cancelled", request=request)
            self._end(task_id, _user_of(request), "cancelled")
            raise Ignore from None
        except asyncio.CancelledError as error:
            # Out of an `asyncio.run` in the task. It is no `Exception`, so Celery would neither
            # note nor tell a failure: the process of its pool would end, and the task begin again.
            raise RuntimeError("a task within its event loop was cancelled") from error

    def _begin(self, task_id: str) -> Any:
        begun = None
        with _never_failing_the_task():
            begun = records().begins(task_id)
        return begun

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        """Tell its end."""
        message = _short(retval) if isinstance(retval, str) else ""
        self._end(task_id, _user_of(self.request), "succeeded", message=message)

    def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Tell its end: to people only what is meant for them, or the kind of the error."""
        if isinstance(exc, JobFailed):
            message = _short(str(exc))
        else:
            message = f"{type(exc).__name__}: see the log of the worker, task {task_id}"
        self._end(task_id, _user_of(self.request), "failed", message=message)

    def retry(self, args: Any = None, kwargs: Any = None, exc: Any = None, **options: Any) -> Any:
        """Try again, as Celery does; and say so first, since the next run may begin at once."""
        request, most = self.request, options.get("max_retries", self.max_retries)
        if request.id and not request.called_directly and (most is None or request.retries < most):
            message = _short(str(exc)) if isinstance(exc, JobFailed) else type(exc).__name__
            with _never_failing_the_task():
                state = self._state(request.id, "retried", message=message if exc else "")
                delay = options.get("countdown", self.default_retry_delay)
                records().goes_on(request.id, state, _seconds_until(delay, options.get("eta")))
                self._publish(state, _user_of(request))
        return super().retry(args, kwargs, exc, **options)

    # --- what is said ---

    def _tell(
        self, task_id: str, user: str, run: dict[str, Any], word: str, more: dict[str, Any]
    ) -> bool:
        """Tell a state; return whether somebody has cancelled the task.

        Raises:
            BrokerError: It is perhaps not told.
        """
        is_cancelled = False
        with _never_failing_the_task(but=(BrokerError,)):
            state = self._state(task_id, word, **run, **more)
            is_cancelled = records().goes_on(task_id, state)
            self._publish(state, user)
        return is_cancelled

    def _state(self, task_id: str, word: str, **more: Any) -> State:
        return {
            "task": task_id,
            "name": self.name,
            "state": word,
            "at": round(time.time(), 3),
            **{name: value for name, value in more.items() if value not in (None, "")},
        }

    def _end(
        self,
        task_id: str,
        user: str,
        word: str,
        message: str = "",
        pauses: Sequence[float] = END_PAUSES,
    ) -> None:
        name = self.name.rpartition(".")[2].replace("_", " ")
        state = self._state(
            task_id, word, message=message, title=f"{name}: {word}", text=message or word
        )
        self._say_end(state, user, pauses)

    def _say_end(self, state: State, user: str, pauses: Sequence[float] = END_PAUSES) -> None:
        """Say the last word, and say it again where Redis does not hear it at once."""
        key = f"{state['task']}-{state['state']}"
        for pause in pauses:
            time.sleep(pause)
            try:
                with _never_failing_the_task(but=(BrokerError,)):
                    records().ended(state["task"], state)
                    self._publish(state, user, idempotency_key=key, **self.live_end(state))
            except BrokerError as error:
                told_nothing(error)
            else:
                return

    def _publish(self, state: State, user: str, **options: Any) -> None:
        """Publish one state, even from an event loop: whoever starts a task waits for Redis there.

        Raises:
            BrokerError: It is perhaps not published.
        """
        channel, event = self.live_channel(state["task"], user), f"job.{state['state']}"
        try:
            wiring.sync_publisher().publish(admitted(channel, state, event=event, **options))
        except BrokerError:
            raise
        except RealtimeError as error:  # a namespace or fallback that there is not, say
            if _unpublished.add(self.name, time.monotonic()) is not None:
                logger.error("the states of %s cannot be published: %s", self.name, error)


_reporters: dict[str, Reporter] = {}
_unpublished = Tally()
sweep.watch_workers()


def task_states(task_ids: Sequence[str]) -> list[State | None]:
    """Return the newest state of each task; None where nothing is known (any more).

    Raises:
        BrokerUnavailable: Nobody knows at present.
    """
    return records().states(task_ids)


def cancel_task(task_id: str) -> None:
    """Cancel a task: it ends when it tells its progress the next time, or before it begins.

    Raises:
        BrokerUnavailable: It was certainly not cancelled.
        OutcomeUnknown: Perhaps; doing it again is safe.
    """
    records().cancel(task_id)


@contextmanager
def _never_failing_the_task(*, but: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Log what goes wrong with telling, and go on: sending and running the task is the host's.

    Args:
        but: What is raised all the same, for a caller that has an answer.
    """
    try:
        # Celery raises its soft time limit from a signal handler, wherever the task just is.
        with contain_errors(*_TELLING, but=(SoftTimeLimitExceeded, BrokerError)):
            yield
    except but:
        raise
    except BrokerError as error:
        told_nothing(error)


def _call(name: str, args: Any, kwargs: Any, user: str) -> str:
    """Return what sends a task again; empty where its arguments are no JSON, as Celery has it."""
    headers = {"live_user": user} if user else {}
    call = {"task": name, "args": list(args or ()), "kwargs": kwargs or {}, "headers": headers}
    try:
        return str(json.dumps(call))  # type: ignore[no-untyped-call]
    except (TypeError, ValueError):
        return ""


def _user_of(request: Any) -> str:
    """Return for whom a task was started, of its request or its headers."""
    if request is None:
        return ""
    value = request.get("live_user")
    if value is None and (headers := request.get("headers")):
        value = headers.get("live_user")
    return value if isinstance(value, str) else ""


def _seconds_until(countdown: float | None, eta: datetime | None) -> float:
    if eta is not None:
        now = datetime.now(eta.tzinfo or UTC)
        return max(0.0, (eta.replace(tzinfo=eta.tzinfo or UTC) - now).total_seconds())
    return countdown or 0.0


def _short(text: Any) -> str:
    text = str(text)
    return text if len(text) <= MESSAGE_LIMIT else f"{text[:MESSAGE_LIMIT]}…"
