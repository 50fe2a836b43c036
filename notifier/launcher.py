"""The launcher: it owns every process of the service, from Valkey to the last worker.

It opens the listening socket, starts the workers on it, restarts them when they die, and makes sure
that no process is left behind, however it ends: the workers and the guardian of Valkey each hold
a pipe whose other end only the launcher has.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging.config
import os
import secrets
import shlex
import socket
import sys
from collections.abc import Coroutine, Mapping
from functools import partial

from notifier import run_secrets, servicefile
from notifier.embedded import EmbeddedValkey, NoEmbeddedValkey
from notifier.env import (
    LOOPBACK_HOSTS,
    BadEnvironment,
    Environment,
    is_debug_by_default,
    read_environment,
    read_secrets,
)
from notifier.fleet import Companion, Fleet, ServiceEnded, supervise, watch
from notifier.listening import LINGER_SECONDS, listening_socket
from notifier.logs import is_stderr_terminal, logging_settings
from notifier.measuring import Measures
from notifier.preparation import NO_REDIS_YET, Preparation
from notifier.private import NotPrivate

JOB_OPTIONS = (
    *("--concurrency", "2", "--loglevel", "WARNING"),
    *("--without-gossip", "--without-mingle"),  # no communication with other workers is needed
)
FALLBACK_WORKER = Companion("fallback worker", "manage", ("runfallback",))
JOB_WORKER = Companion(
    "job worker", "celery", ("-q", "-A", "notifier.celery", "worker", *JOB_OPTIONS)
)
COMPANIONS = (FALLBACK_WORKER, JOB_WORKER)
"""For `make run`. In production each is a line of the Procfile, and managed by something else."""
BESIDE_OTHERS = (JOB_WORKER,)
"""For `make run` on a Redis that may be a project's, too: a fallback worker would take what that
project has queued, without its users, handlers and mail server (docs/howto/beside-the-service.md).
"""


class CannotStart(Exception):
    """The service cannot start; the text is one sentence for the person at the terminal."""


def launch(command: str, *, stop_with_parent: bool = False) -> int:
    """Run the service until it is stopped; return the exit status.

    Args:
        command: ``serve`` or ``run``.
        stop_with_parent: Whether `run` ends with the process that has started it.
    """
    logging.config.dictConfig(logging_settings(for_people=is_stderr_terminal()))
    try:
        if command == "serve":
            serve(os.environ)
        else:
            run(os.environ, stop_with_parent=stop_with_parent)
    except (BadEnvironment, CannotStart, ServiceEnded, NoEmbeddedValkey, NotPrivate) as error:
        print(f"notifier: {error}", file=sys.stderr)
        return 1
    return 0


def serve(environ: Mapping[str, str]) -> None:
    """Run the service in production: missing settings are an error.

    Raises:
        BadEnvironment: A variable is missing or invalid.
        CannotStart: The address is not available.
        Ended: The service could not be kept running.
    """
    env = read_environment(environ)
    if not env.redis_url:
        raise BadEnvironment("REDIS_URL", "is missing: only `make run` starts a private Valkey.")
    _warn(env)
    listener = listen(env.host, env.port)
    url = address_of(listener)
    with Preparation(environ) as preparation:
        measures, watches = measure(env)
        fleet = Fleet(env.workers, listener, environ, linger=linger_seconds(env), measures=measures)
        live = partial(_say, f"The notifier is live at {url}")
        work = supervise(fleet, url, announce=live, preparation=preparation, watches=watches)
        asyncio.run(work)


def run(environ: Mapping[str, str], *, stop_with_parent: bool = False) -> None:
    """Run the service for a person who tries or develops it: missing settings are generated.

    Raises:
        BadEnvironment: A variable is invalid.
        CannotStart: The address is not available.
        Ended: The service could not be kept running.
        NoEmbeddedValkey: There is neither REDIS_URL nor a private Valkey for this platform.
        NotPrivate: Other users can access the secrets in NOTIFIER_RUN_DIR.
    """
    path = servicefile.default_path()
    loaded = run_secrets.load(path.parent)
    environ = fill_in(environ, loaded.secret_key)
    environ["REDIS_URL"] = environ.get("REDIS_URL", "").strip()  # as `read_environment` does
    own_database = environ["DATABASE_URL"] == servicefile.database_url(path)
    # Validated before anything is started; the URL of Redis is filled in right after.
    env = read_environment({**environ, "REDIS_URL": environ.get("REDIS_URL") or NO_REDIS_YET})
    _warn(env)
    listener = listen(env.host, env.port)
    url = address_of(listener)
    run_secrets.save(path.parent, loaded)
    with contextlib.ExitStack() as stack:
        # It never connects to Redis, but requires a URL.
        options = ["--migrate", "--demo"] if own_database else ["--migrate"]
        known = {**environ, "REDIS_URL": environ.get("REDIS_URL") or NO_REDIS_YET}
        preparation = stack.enter_context(Preparation(known, *options))
        embedded = None
        if not environ.get("REDIS_URL"):
            embedded = EmbeddedValkey(path)
            stack.callback(embedded.stop)
            environ["REDIS_URL"] = embedded.url
        environ["NOTIFIER_URL"] = url
        servicefile.write(path, environ, pid=os.getpid())
        stack.callback(servicefile.remove, path, pid=os.getpid())
        measures, watches = measure(env)
        fleet = Fleet(
            env.workers,
            listener,
            environ,
            linger=linger_seconds(env),
            companions=COMPANIONS if embedded else BESIDE_OTHERS,
            measures=measures,
        )
        text = write_welcome(
            url,
            env.api_key,
            private_valkey=embedded is not None,
            passwords=loaded.passwords if own_database and env.debug else {},
        )
        if embedded:
            lost = "the private Valkey stopped and could not be restarted."
            watches.append(watch(embedded.is_alive, lambda: fleet.fail(lost)))
        if stop_with_parent:
            parent = os.getppid()
            watches.append(watch(lambda: os.getppid() == parent, fleet.stop))
        live = partial(_say, text)
        work = supervise(fleet, url, announce=live, preparation=preparation, watches=watches)
        asyncio.run(work)


def measure(env: Environment) -> tuple[Measures, list[Coroutine[None, None, None]]]:
    """Return what collects the workers' metrics, and what serves them at METRICS_ADDRESS.

    Raises:
        CannotStart: The address is not available.
    """
    # Otherwise only the page /monitor/ asks, while Redis is away.
    measures = Measures(is_refreshed=env.has_metrics)
    if env.metrics_address is None:
        return measures, []
    from notifier.metrics_server import MetricsServer  # loads a server, as the workers do

    listener = listen(*env.metrics_address, "METRICS_ADDRESS=127.0.0.1:9101")
    return measures, [MetricsServer(listener, measures.read).keep()]


def fill_in(environ: Mapping[str, str], secret_key: str) -> dict[str, str]:
    """Generate all missing settings that ``make run`` may generate: all except the URL of Redis.

    Raises:
        BadEnvironment: A secret's file cannot be used.
    """
    environ = read_secrets(environ)
    debug = "1" if is_debug_by_default(environ) else ""
    proposals = {
        "SECRET_KEY": secret_key,
        "DATABASE_URL": servicefile.database_url(servicefile.default_path()),
        "NOTIFIER_API_KEY": secrets.token_urlsafe(24),
        "NOTIFIER_TOKEN_SECRET": secrets.token_urlsafe(48),
        "DEBUG": debug,
        # The pages may publish only if the key in them can be read on this machine alone.
        "NOTIFIER_DEMO_KEY": debug,
        "HTTPS": "0",  # there is no proxy in front
        "ALLOWED_HOSTS": ",".join((*LOOPBACK_HOSTS, socket.gethostname().lower())),
    }
    return {**proposals, **{name: value for name, value in environ.items() if value}}


_OWN_REDIS = """REDIS_URL
  Fallbacks      wait for `manage.py runfallback`, in the project that has the users"""


def write_welcome(
    url: str, api_key: str, *, private_valkey: bool, passwords: Mapping[str, str]
) -> str:
    """Return the text that a person sees when the service is live."""
    data = {"title": "Hello", "text": "It works", "level": "success"}
    body = json.dumps({"channel": "public:news", "data": data}, separators=(",", ":"))
    redis = "private Valkey, deleted when the service stops" if private_valkey else _OWN_REDIS
    curl = shlex.join(
        ["curl", "-X", "POST", f"{url}/api/publish", "-H", f"X-API-Key: {api_key}",
         "-H", "Content-Type: application/json", "-d", body]
    )  # fmt: skip
    users = "".join(
        f"\n  Log in as      {name}, password {word}" for name, word in passwords.items()
    )
    return f"""
The notifier is live.

  Notifications  {url}/
  Chat           {url}/chat/
  Jobs           {url}/jobs/
  HTMX           {url}/htmx/
  API reference  {url}/docs/
  API key        {api_key}{users}
  Redis          {redis}

Open the first page, then publish an event from another terminal:

  {curl}

Press Ctrl-C to stop all processes.
"""


def listen(host: str, port: int, other: str = "PORT=8001") -> socket.socket:
    """Open a listening socket, or raise `CannotStart` with what to do about it."""
    try:
        return listening_socket(host, port)
    except OSError as error:
        where = f"{host}:{port}"
        if error.errno == errno.EADDRINUSE:
            raise CannotStart(
                f"{where} is already in use: stop that process or choose another port ({other})."
            ) from error
        raise CannotStart(f"cannot listen on {where}: {error.strerror}.") from error


def address_of(listener: socket.socket) -> str:
    """Return the URL at which this machine reaches the service."""
    host, port = listener.getsockname()[:2]
    if host in {"0.0.0.0", "::"}:  # noqa: S104 - compared, not bound
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"  # noqa: S104
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def linger_seconds(env: Environment) -> float:
    """Return how long a worker still accepts connections after SIGTERM."""
    # In DEBUG, no proxy needs time to notice, and a person is waiting.
    return 0.0 if env.debug else LINGER_SECONDS


def _warn(env: Environment) -> None:
    for text in env.notices:
        print(f"notifier: {text}", file=sys.stderr, flush=True)


def _say(text: str) -> None:
    print(text, flush=True)
