"""``python -m notifier token``: a token for trying, made as a site would make it."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

from notifier import servicefile
from notifier.env import read_secrets
from notifier.private import NotPrivate
from notifier.variables import BadEnvironment
from realtime.errors import RealtimeError

SECRET = "NOTIFIER_TOKEN_SECRET"  # noqa: S105 - the name of a variable
MISSING = (
    "is missing: set the secret with which the service verifies tokens (HS256). If it has "
    "NOTIFIER_TOKEN_PUBLIC_KEY or NOTIFIER_TOKEN_JWKS instead, tokens come from your identity "
    "provider."
)


def print_token(environ: Mapping[str, str], user: str, channel: str, seconds: int) -> int:
    """Print a token, and on stderr how to use it; return the exit status.

    Args:
        environ: Has the secret.
        user: The user ID.
        channel: A channel for a subscription token; empty for a connection token.
        seconds: How long the token is valid.
    """
    try:
        token = make_token(environ, user, channel, seconds)
    except (BadEnvironment, NotPrivate, RealtimeError) as error:
        print(f"notifier: {error}", file=sys.stderr)
        return 1
    print(token)
    until = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(time.time() + seconds))
    print(f"{describe_use(user, channel)} Valid until {until}.", file=sys.stderr)
    return 0


def make_token(environ: Mapping[str, str], user: str, channel: str, seconds: int) -> str:
    """Return a token; arguments as for `print_token`.

    Raises:
        BadEnvironment: The secret is missing.
        NotPrivate: Others could have written the file of a running service.
        RealtimeError: The user or the channel is invalid.
    """
    given = read_secrets(environ)
    secret = given.get(SECRET, "")
    if not secret:
        facts = servicefile.read(servicefile.default_path()) or {}
        secret = facts.get("token_secret", "")
    if not secret:
        raise BadEnvironment(SECRET, MISSING)
    from django.conf import settings

    # Not those of the service, which need all of its variables.
    settings.configure(
        REALTIME_TOKEN_SECRET=secret,
        REALTIME_TOKEN_AUDIENCE=given.get("NOTIFIER_TOKEN_AUDIENCE", "").strip(),
        REALTIME_SESSION_USER_PREFIX="service.",
    )
    from realtime import connection_token, subscription_token

    if channel:
        return subscription_token(user, channel, seconds=seconds)
    return connection_token(user, seconds=seconds)


def describe_use(user: str, channel: str) -> str:
    """Return one sentence that says where the token goes."""
    who = f"is {user}" if user else "is anonymous"
    if channel:
        return (
            f'To subscribe to {channel}, a client that {who} sends {{"id":2,"subscribe":'
            f'{{"channel":"{channel}","token":"…"}}}}, or calls subscribe("{channel}", '
            '{ getToken: () => "…" }) of client.js.'
        )
    return (
        f'A client that sends {{"id":1,"connect":{{"token":"…"}}}}, or calls '
        f'connect({{ getToken: () => "…" }}) of client.js, {who}.'
    )
