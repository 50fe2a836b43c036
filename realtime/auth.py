"""Whom Django's session knows: the user of a page of this site.

Looked up once, before the connection is accepted; a frame never touches the database. Cookies count
for the site's own pages alone: a browser adds them to a handshake from any page (CWE-1385).
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from channels.auth import AuthMiddlewareStack
from django.apps import apps
from django.conf import settings
from django.http import parse_cookie

from realtime.identity import ANONYMOUS, Identity

Scope = MutableMapping[str, Any]
_APPS = ("django.contrib.auth", "django.contrib.sessions")


async def session_identity(scope: Scope) -> Identity:
    """Return the user who is logged in on the page that connects.

    Args:
        scope: Of a handshake that came from a page of our own.

    Raises:
        django.db.Error: The session or the user cannot be read.
    """
    user = scope.get("user")  # the host has Channels' AuthMiddleware around us
    if user is None and _may_have_session(scope):
        user = await _user(scope)
    if user is None or not user.is_authenticated:
        return ANONYMOUS
    return Identity(str(user.pk))


def _may_have_session(scope: Scope) -> bool:
    """Tell whether it is worth a query."""
    if not all(map(apps.is_installed, _APPS)):
        return False
    cookies = "; ".join(
        value.decode("latin-1") for name, value in scope["headers"] if name == b"cookie"
    )
    return settings.SESSION_COOKIE_NAME in parse_cookie(cookies)


async def _user(scope: Scope) -> Any:
    """Ask Channels' middleware, which would otherwise wrap each send to save a session."""
    found: list[Any] = []

    async def look(scope: Scope, receive: Any, send: Any) -> None:
        found.append(scope["user"])

    await AuthMiddlewareStack(look)(dict(scope), None, None)
    return found[0]
