"""The launcher: it owns every process of the service, from Valkey to the last worker.

It opens the listening socket, starts the workers on it, starts them again when they die, and sees
to it that nothing is left when it ends, in whatever way it ends: the workers and the guardian of
Valkey each hold a pipe whose other end only the launcher has.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import io
import json
import os
import secrets
import shlex
import socket
import sys
from collections.abc import Mapping, Sequence

from notifier import kept, servicefile
from notifier.embedded import EmbeddedValkey, NoEmbeddedValkey
from notifier.env import (
    LOOPBACK_HOSTS,
    BadEnvironment,
    Environment,
    debug_by_default,
    read_environment,
    with_files,
)
from notifier.fleet import Companion, Ended, Fleet, supervise, watch
from notifier.preparation import NO_REDIS_YET, Preparation
from notifier.private import NotPrivate
from notifier.server import LINGER_SECONDS, listening_socket

JOB_OPTIONS = (
    *("--concurrency", "2", "--loglevel", "WARNING"),
    *("--without-gossip", "--without-mingle"),  # with other workers, whom nobody here asks
)
COMPANIONS = (
    Companion("fallback worker", "manage", ("runfallback",)),
    Companion("job worker", "celery", ("-q", "-A", "notifier.celery", "worker", *JOB_OPTIONS)),
)
"""Of `make run`. In production each is a line of the Procfile, and somebody else's process."""


class CannotStart(Exception):
    """The service cannot start; the text is one sentence for the person at the terminal."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Start the service as the command line says, and return its exit code when it has ended."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # in an ASCII locale "é" becomes \\xe9, no error
            stream.reconfigure(errors="backslashreplace")
    options = _parser().parse_args(arguments)
    try:
        if options.command == "serve":
            serve(os.environ)
        else:
            run(os.environ, stop_with_parent=options.stop_with_parent)
    except (BadEnvironment, CannotStart, Ended, NoEmbeddedValkey, NotPrivate) as error:
        print(f"notifier: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # before the loop listened for it
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m notifier", description="Start the notification service.", epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    running = commands.add_parser(
        "run",
        help="for trying and developing: what is missing is invented, Valkey comes along",
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    running.add_argument(
        "--stop-with-parent",
        action="store_true",
        help="stop when the process that started this one is gone (make)",
    )
    commands.add_parser(
        "serve",
        help="for production: REDIS_URL and all secrets come from the environment",
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


_HELP = """\
environment:
  HOST, PORT           where to listen (127.0.0.1, 8000)
  WEB_CONCURRENCY      how many worker processes (1)
  REDIS_URL            redis://, rediss:// or unix://; without it, `run` starts a private Valkey
  DATABASE_URL         users and sessions: postgres://user:password@host/name, or
                       sqlite:////path (db.sqlite3 in the checkout; for `run` in .run/)
  SECRET_KEY           at least 50 characters outside DEBUG
  SECRET_KEY_FALLBACKS
                       earlier ones that still count, while you change it
  NOTIFIER_API_KEY     what publishers send as X-API-Key: one key that may do everything
  NOTIFIER_API_KEYS    one for each publisher, as JSON; or @path of a file, which may change
  NOTIFIER_TOKEN_SECRET
                       of the tokens by which your site says who its clients are (HS256)
  NOTIFIER_TOKEN_PUBLIC_KEY
                       the same for RS256 and ES256: a public key, or @path of its file
  NOTIFIER_TOKEN_JWKS  several public keys, as a JWKS; or @path of a file, which may change
  NOTIFIER_TOKEN_AUDIENCE
                       what must be among a token's `aud`, if anything
  NOTIFIER_TOKEN_EXPIRY
                       required, or optional: tokens without `exp` hold for ever
  NOTIFIER_PERSONAL_CHANNEL
                       what stands before a user's id in their own channel (user:#)
  NOTIFIER_NAMESPACES  options of the channels: a JSON object, or @path of a file that holds one
  NOTIFIER_FALLBACKS   who gets what nobody hears: a JSON object, or @path of one
  NOTIFIER_CLOUDEVENTS on which channels CloudEvents are published: a JSON array, or @path of one
  EMAIL_URL            the mail server of the fallback `email`: smtp+tls://user:password@host:587
  EMAIL_FROM           from whom its mails are
  NOTIFIER_LIMITS      what clients may take: a JSON object of settings, or @path of one
  ALLOWED_HOSTS        the names browsers know this service by, with commas between
  ALLOWED_ORIGINS      origins of other sites whose pages may connect, with commas between
  DEBUG                1 or 0; `run` turns it on where only this machine can connect
  HTTPS                1 (for `serve`) or 0 (for `run`): does a proxy in front end TLS?
  HSTS_SECONDS         how long browsers insist on HTTPS (3600)
  FORWARDED_ALLOW_IPS  the proxy whose X-Forwarded-* are believed (127.0.0.1)

signals:
  SIGTERM, SIGINT (Ctrl-C) and SIGHUP stop it gracefully, a second one at once. Where it was
  started with SIGINT or SIGHUP ignored (nohup, or in the background of a script), these stay
  ignored, and it says so: SIGTERM stops it.

Of each that is secret, the value may stand in a file that …_FILE names: REDIS_URL_FILE=/run/redis.
"""


def serve(environ: Mapping[str, str]) -> None:
    """Run the service in production: nothing is invented.

    Raises:
        BadEnvironment: a variable is missing or wrong.
        CannotStart: the address cannot be had.
        Ended: the service could not be kept running.
    """
    env = read_environment(environ)
    if not env.redis_url:
        raise BadEnvironment("REDIS_URL", "is missing: only `make run` starts a Valkey itself.")
    _warn(env)
    listener = listen(env)
    url = address_of(listener)
    with Preparation(environ) as preparation:
        fleet = Fleet(env.workers, listener, environ, linger=linger_seconds(env))
        text = f"The notifier is live on {url}"
        asyncio.run(supervise(fleet, url, announce=lambda: _say(text), preparation=preparation))


def run(environ: Mapping[str, str], *, stop_with_parent: bool = False) -> None:
    """Run the service for a person who tries it or works on it: all that is missing is invented.

    Raises:
        BadEnvironment: a variable is wrong.
        CannotStart: the address cannot be had.
        Ended: the service could not be kept running.
        NoEmbeddedValkey: neither REDIS_URL nor a private Valkey for this platform.
        NotPrivate: other users can get at the secrets in NOTIFIER_RUN_DIR.
    """
    path = servicefile.default_path()
    found = kept.recall(path.parent)
    environ = invent(environ, found.secret_key)
    environ["REDIS_URL"] = environ.get("REDIS_URL", "").strip()  # as `read_environment` reads it
    own_database = environ["DATABASE_URL"] == servicefile.database_url(path)
    # Judged before anything is started; Redis gets its place in it right after.
    env = read_environment({**environ, "REDIS_URL": environ.get("REDIS_URL") or NO_REDIS_YET})
    _warn(env)
    listener = listen(env)
    url = address_of(listener)
    kept.keep(path.parent, found)
    with contextlib.ExitStack() as stack:
        # It asks nothing of Redis, whose place it only has to know.
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
        fleet = Fleet(
            env.workers,
            listener,
            environ,
            linger=linger_seconds(env),
            companions=COMPANIONS,
        )
        text = welcome(
            url,
            env.api_key,
            private_valkey=embedded is not None,
            passwords=found.passwords if own_database and env.debug else {},
        )
        watches = []
        if embedded:
            lost = "the private Valkey is gone and could not be started again."
            watches.append(watch(embedded.alive, lambda: fleet.fail(lost)))
        if stop_with_parent:
            parent = os.getppid()
            watches.append(watch(lambda: os.getppid() == parent, fleet.stop))
        asyncio.run(
            supervise(
                fleet, url, announce=lambda: _say(text), preparation=preparation, watches=watches
            )
        )


def invent(environ: Mapping[str, str], secret_key: str) -> dict[str, str]:
    """Fill in what ``make run`` may make up: everything but the address of Redis.

    Raises:
        BadEnvironment: a secret's file cannot be used.
    """
    environ = with_files(environ)
    debug = "1" if debug_by_default(environ) else ""
    proposals = {
        "SECRET_KEY": secret_key,
        "DATABASE_URL": servicefile.database_url(servicefile.default_path()),
        "NOTIFIER_API_KEY": secrets.token_urlsafe(24),
        "NOTIFIER_TOKEN_SECRET": secrets.token_urlsafe(48),
        "DEBUG": debug,
        # The pages may publish only where nobody but this machine can read the key in them.
        "NOTIFIER_DEMO_KEY": debug,
        "HTTPS": "0",  # there is no proxy in front
        "ALLOWED_HOSTS": ",".join((*LOOPBACK_HOSTS, socket.gethostname().lower())),
    }
    return {**proposals, **{name: value for name, value in environ.items() if value}}


def welcome(url: str, api_key: str, *, private_valkey: bool, passwords: Mapping[str, str]) -> str:
    """Return what a person sees when the service is live."""
    data = {"title": "Hello", "text": "It works", "level": "success"}
    body = json.dumps({"channel": "public:news", "data": data}, separators=(",", ":"))
    redis = "a private Valkey, gone when this stops" if private_valkey else "yours (REDIS_URL)"
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
  The API        {url}/docs/
  API key        {api_key}{users}
  Redis          {redis}

Open the first page, then post an event from another terminal:

  {curl}

Ctrl-C stops everything.
"""


def listen(env: Environment) -> socket.socket:
    """Open the listening socket.

    Raises:
        CannotStart: with what to do about it.
    """
    try:
        return listening_socket(env.host, env.port)
    except OSError as error:
        where = f"{env.host}:{env.port}"
        if error.errno == errno.EADDRINUSE:
            raise CannotStart(
                f"{where} is in use: stop what listens there, or choose another port (PORT=8001)."
            ) from error
        raise CannotStart(f"cannot listen on {where}: {error.strerror}.") from error


def address_of(listener: socket.socket) -> str:
    """Return the URL by which this machine reaches the service."""
    host, port = listener.getsockname()[:2]
    if host in {"0.0.0.0", "::"}:  # noqa: S104 - compared, not bound
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"  # noqa: S104
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def linger_seconds(env: Environment) -> float:
    """Return how long a worker still accepts connections after SIGTERM."""
    # In DEBUG there is no proxy that would have to notice, only a person who waits.
    return 0.0 if env.debug else LINGER_SECONDS


def _warn(env: Environment) -> None:
    for text in env.notices:
        print(f"notifier: {text}", file=sys.stderr, flush=True)


def _say(text: str) -> None:
    print(text, flush=True)
