"""Background jobs with live progress: Celery on the same Redis, or your own Celery anywhere.

``@shared_task(base=LiveTask, bind=True)`` is all that a host writes. Each state of a task (waiting,
started, progress, succeeded, failed, retried, cancelled) goes to a channel, and can be fetched for
a day. See docs/jobs.md. Needs ``pip install 'django-realtime-notifier[celery]'``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

from celery import Celery, Task, current_app, signals
from celery.exceptions import Ignore
from celery.utils.log import get_task_logger
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from kombu.exceptions import OperationalError
from kombu.utils.uuid import uuid
from redis import RedisError

from realtime import wiring
from realtime.contrib.pace import PACE_SECONDS, Pace
from realtime.contrib.records import KEPT_SECONDS, Records, State
from realtime.errors import BrokerError, RealtimeError
from realtime.names import personal_channel
from realtime.outage import Outage
from realtime.shortcuts import id_of, publish

logger = get_task_logger(__name__)

TASK_SECONDS = 600
"""How long a task may take, unless it or the app says otherwise."""
ENDS = frozenset({"succeeded", "failed", "cancelled"})
STARTS_LIMIT = 5
"""A task that began so often without an end kills its workers, and is begun no more."""
END_ATTEMPTS = 5
REST_SECONDS = 5.0
"""Without progress, after it could not be told: a task shall not wait for a Redis that is away."""
MESSAGE_LIMIT = 500  # characters


class JobFailed(Exception):
    """Raise it in a task to say to people why it failed, and what they can do."""


class Cancelled(BaseException):
    """Somebody has cancelled the task. No `Exception`: a task's own handlers let it through."""


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
    app.add_defaults(lambda: {**redis_settings(task_seconds), **_task_settings(task_seconds)})
    return app


def _task_settings(task_seconds: float) -> dict[str, Any]:
    return {
        # Only what anybody can read: whoever can write to Redis shall not execute code here.
        "accept_content": ["json"],
        "task_serializer": "json",
        "result_serializer": "json",
        # A message is gone when its task has ended, not when it began; a killed pool process
        # (out of memory, -9) gives it back at once.
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "worker_prefetch_multiplier": 1,
        "task_soft_time_limit": task_seconds,
        "task_time_limit": task_seconds + _grace(task_seconds),
        "task_track_started": True,
        "result_expires": KEPT_SECONDS,
        "broker_connection_retry_on_startup": True,
        "worker_cancel_long_running_tasks_on_connection_loss": True,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
    }


def redis_settings(task_seconds: float) -> dict[str, Any]:
    """Return what Celery has to know of our Redis."""
    # Only these two: Celery asks before Django's apps are loaded, and others may name models.
    url = getattr(settings, "REALTIME_REDIS_URL", "")
    if not url:
        raise ImproperlyConfigured("REALTIME_REDIS_URL is not set: start `make run`, or set it")
    url = kombu_url(url)
    prefix = f"{getattr(settings, 'REALTIME_REDIS_PREFIX', 'rt')}:celery:"
    visibility = task_seconds + 2 * _grace(task_seconds)
    return {
        "broker_url": url,
        "result_backend": url,
        "broker_transport_options": {
            "global_keyprefix": prefix,
            "visibility_timeout": visibility,
            # Looked for as often as that is worth, and by others soon if the one who looks dies.
            "unacked_restore_interval": max(1, min(10, int(visibility / 4))),
            "unacked_restore_throttle": 1,
            "unacked_mutex_expire": 10,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 10,
        },
        "result_backend_transport_options": {
            "global_keyprefix": prefix,
            "retry_policy": {"timeout": 5.0},
        },
        "redis_socket_connect_timeout": 5,
        "redis_socket_timeout": 10,
    }


def kombu_url(url: str) -> str:
    """Return the address of a Redis as Celery reads it: ``unix://…`` is ``redis+socket://…``."""
    parts = urlsplit(url)
    if parts.scheme != "unix":
        return url
    database = parse_qs(parts.query).get("db", ["0"])[-1]
    user = f"{parts.username or ''}:{parts.password}@" if parts.password else ""
    return f"redis+socket://{user}{parts.path}?virtual_host={database}"


def _grace(task_seconds: float) -> float:
    return max(1.0, min(30.0, task_seconds / 10))


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
        try:
            if records().is_cancelled(self.request.id):
                raise Cancelled
        except BrokerError:
            return

    def live_channel(self, task_id: str, user: str) -> str:
        """Return where the states of a task go; to be overridden.

        Args:
            task_id: Its id.
            user: For whom it was started; empty is nobody.
        """
        namespace = wiring.settings().personal_namespace
        own = personal_channel(namespace, user) if user and namespace else None
        return own or f"job:{task_id}"

    def live_ended(self, state: State) -> None:
        """Do something more at its end, such as writing it down; to be overridden."""

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
        call = {"args": list(args or ()), "kwargs": kwargs or {}, "task": self.name}
        call |= {"headers": {"live_user": user}} if user else {}
        state = self._state(task_id, user, "waiting")
        try:
            delay = _seconds_until(options.get("countdown"), options.get("eta"))
            records().sent(task_id, state, call, delay)
        except BrokerError as error:
            _told_nothing(error)
        else:
            self._publish(state, user)
        return super().apply_async(args, kwargs, task_id=task_id, **options)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it, in a worker: with its beginning told, and its cancellation heeded."""
        request = self.request
        if request.called_directly:
            return super().__call__(*args, **kwargs)
        task_id = request.id
        begun = self._begin(task_id)
        if begun is not None and begun.state is not None and begun.state.get("state") in ENDS:
            self._say_again(begun.state)
            raise Ignore  # it came twice
        try:
            if begun is not None and begun.is_cancelled:
                raise Cancelled
            if begun is not None and begun.starts - request.retries > STARTS_LIMIT:
                raise JobFailed(f"it began {STARTS_LIMIT} times, and its worker died each time")
            reporter = _Reporter(self, task_id, _user_of(request), begun.starts if begun else 1)
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

    def _begin(self, task_id: str) -> Any:
        try:
            return records().begins(task_id)
        except BrokerError as error:
            _told_nothing(error)
            return None

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
            user = _user_of(request)
            state = self._state(request.id, user, "retried", message=message if exc else "")
            delay = options.get("countdown", self.default_retry_delay)
            try:
                records().goes_on(request.id, state, _seconds_until(delay, options.get("eta")))
                self._publish(state, user)
            except BrokerError as error:
                _told_nothing(error)
        return super().retry(args, kwargs, exc, **options)

    # --- what is said ---

    def _state(self, task_id: str, user: str, word: str, **more: Any) -> State:
        return {
            "task": task_id,
            "name": self.name,
            "state": word,
            "at": round(time.time(), 3),
            **{name: value for name, value in more.items() if value not in (None, "")},
        }

    def _end(self, task_id: str, user: str, word: str, message: str = "") -> None:
        """Say the last word, and say it again where Redis does not hear it at once."""
        name = self.name.rpartition(".")[2].replace("_", " ")
        state = self._state(
            task_id, user, word, message=message, title=f"{name}: {word}", text=message or word
        )
        self.live_ended(state)
        for attempt in range(1, END_ATTEMPTS + 1):
            try:
                records().ended(task_id, state)
                self._publish_end(state, user)
            except BrokerError as error:
                _told_nothing(error)
                time.sleep(0.2 * 2**attempt if attempt < END_ATTEMPTS else 0)
            else:
                return

    def _say_again(self, state: State) -> None:
        """Its worker may have ended before it published the end."""
        try:
            records().ended(state["task"], state)
            self._publish_end(state, _user_of(self.request))
        except BrokerError as error:
            _told_nothing(error)

    def _publish_end(self, state: State, user: str) -> None:
        key = f"{state['task']}-{state['state']}"
        self._publish(state, user, key=key, **self.live_end(state))

    def _publish(self, state: State, user: str, key: str | None = None, **options: Any) -> None:
        """Publish one state.

        Raises:
            BrokerError: It is perhaps not published.
        """
        try:
            publish(
                self.live_channel(state["task"], user),
                state,
                event=f"job.{state['state']}",
                idempotency_key=key,
                **options,
            )
        except BrokerError:
            raise
        except RealtimeError as error:  # a namespace or fallback that there is not: told once
            if _unpublished.failed(time.monotonic()):
                logger.error("the states of %s cannot be published: %s", self.name, error)


class _Reporter:
    """What one run of a task says about itself: at its pace, the newest always."""

    def __init__(self, task: LiveTask, task_id: str, user: str, starts: int) -> None:
        self._task = task
        self._task_id = task_id
        self._user = user
        self._starts = starts
        self._pace = Pace(task.live_seconds)
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._newest: dict[str, Any] | None = None
        self._is_cancelled = False
        self._is_closed = False

    def say(self, word: str, **more: Any) -> None:
        with self._lock:
            self._tell(word, more)

    def report(self, **more: Any) -> None:
        """Tell progress now, or a little later if something newer does not come before.

        Raises:
            Cancelled: Somebody has cancelled the task.
        """
        with self._lock:
            self._newest = more
            wait = self._pace.wait(time.monotonic())
            if wait == 0.0:
                self._tell("progress", more)
            elif wait is not None:
                self._timer = threading.Timer(wait, self._tell_late)
                self._timer.daemon = True
                self._timer.start()
        if self._is_cancelled:
            raise Cancelled

    def close(self) -> None:
        """Say no more: what comes now is the end."""
        with self._lock:
            self._is_closed = True
            if self._timer is not None:
                self._timer.cancel()

    def _tell_late(self) -> None:
        with self._lock:
            self._timer = None
            if not self._is_closed and self._newest is not None:
                self._tell("progress", self._newest)

    def _tell(self, word: str, more: dict[str, Any]) -> None:
        self._newest = None
        run = {"run": self._starts} if self._starts > 1 else {}
        state = self._task._state(self._task_id, self._user, word, **run, **more)
        pause = 0.0
        try:
            self._is_cancelled = records().goes_on(self._task_id, state) or self._is_cancelled
            self._task._publish(state, self._user)
        except BrokerError as error:
            _told_nothing(error)
            pause = REST_SECONDS
        self._pace.told(time.monotonic(), pause=pause)


_reporters: dict[str, _Reporter] = {}
_outage = Outage()
_unpublished = Outage()


def records() -> Records:
    """Return what is known of all tasks."""
    return Records(wiring.sync_broker())


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


# --- tasks whose message was lost ---


class Sweep:
    """Sends tasks again of which nothing is heard, in the process of a worker.

    Celery takes a message off the list in Redis and then writes down that it has it: a worker that
    is killed in between loses it for ever. Nobody waits behind such a task, so it is looked for
    when no message waits in the queue.
    """

    def __init__(self, app: Celery) -> None:
        options = app.conf.broker_transport_options
        self._app = app
        self._silence = float(options.get("visibility_timeout", 3600)) * 1.5
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
                _told_nothing(error)

    def _sweep(self) -> None:
        silent = list(records().silent(self._silence))
        if not silent or self._waiting():
            return
        for task_id, call in silent:
            logger.warning("task %s is sent again: nothing was heard of it", task_id)
            self._app.send_task(
                call["task"],
                call["args"],
                call["kwargs"],
                task_id=task_id,
                headers=call.get("headers"),
            )
            records().heard_of(task_id)

    def _waiting(self) -> int:
        with self._app.connection_for_read() as connection:
            queue = self._app.conf.task_default_queue
            # Not `passive`: kombu then asks for a key without the prefix, and finds none.
            return int(connection.default_channel.queue_declare(queue).message_count)


_sweeps: list[Sweep] = []


@signals.worker_ready.connect  # type: ignore[untyped-decorator]
def _start_sweep(sender: Any = None, **kwargs: Any) -> None:
    app = sender.app if sender is not None else current_app
    if urlsplit(app.conf.broker_url or "").scheme.startswith("redis"):
        _sweeps.append(Sweep(app))


@signals.worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _stop_sweep(**kwargs: Any) -> None:
    while _sweeps:
        _sweeps.pop().stop()


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


def _told_nothing(error: Exception) -> None:
    if _outage.failed(time.monotonic()):
        logger.warning("progress cannot be told: %s", error)
