"""Publishing from a page of this site, by the session of a member of the staff.

A browser adds the cookie to whatever any page sends here. So it counts for the site's own pages
alone, and only with the CSRF token, which no other page can know; Django checks that.
"""

from __future__ import annotations

import hashlib
from collections.abc import MutableMapping
from io import BytesIO
from typing import Any

from channels.db import database_sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.db import Error as DatabaseError
from django.http import HttpRequest, HttpResponse, HttpResponseForbidden
from django.middleware.csrf import CsrfViewMiddleware

from realtime.api.head import Request, check_body
from realtime.callers import is_own_page
from realtime.errors import Forbidden, RealtimeError, RequestError, Unauthorized
from realtime.hostcode import of_host
from realtime.keys import BY_DEFAULT, Key

METHODS = frozenset(BY_DEFAULT)


class CsrfFailed(RequestError):
    """The CSRF token of this page must stand in the header X-CSRFToken."""

    code = "csrf_failed"


class SessionUnavailable(RealtimeError):
    """Nobody knows now whose session it is."""

    code = "session_unavailable"
    temporary = True


async def look_up_session(scope: MutableMapping[str, Any], head: Request) -> None:
    """Do what `key_of_session` does, before the body of an ASGI request is read.

    Raises:
        RealtimeError: As `key_of_session` does.
    """
    await of_host(database_sync_to_async(_look_up)(scope, head))


def _look_up(scope: MutableMapping[str, Any], head: Request) -> None:
    # Not every host has these two; `has_session` has said that this one does.
    from django.contrib.auth.middleware import AuthenticationMiddleware
    from django.contrib.sessions.middleware import SessionMiddleware

    check_body(head)  # before the database is asked
    request = ASGIRequest(scope, BytesIO())
    # Django's own, whose attributes are only read when somebody asks.
    SessionMiddleware(_nothing).process_request(request)
    AuthenticationMiddleware(_nothing).process_request(request)
    key_of_session(request, head)


def key_of_session(request: HttpRequest, head: Request) -> Key:
    """Return what the user of the page may do.

    Raises:
        UnsupportedMediaType: It is no JSON, but perhaps a form, which any page can send.
        TooLarge: The body will be over its limit.
        Unauthorized: It came from no page of ours, or nobody is logged in there.
        Forbidden: The user is not of the staff.
        CsrfFailed: The token is missing or wrong.
        SessionUnavailable: The database is away.
    """
    check_body(head)  # before Django looks for the token in the fields of a form
    try:
        user = _user(request)
    except DatabaseError as error:
        raise SessionUnavailable(str(error)) from error
    if user is None:
        raise Unauthorized("the header X-API-Key is missing or wrong")
    if not (user.is_active and user.is_staff):
        raise Forbidden
    _check_token(request)
    user_id = str(user.pk)
    return Key(
        f"staff:{ascii(user_id)[1:-1][:40]}",
        b"",
        methods=METHODS,
        # The name is cut off for the log; two users must not have one scope.
        holder=f"staff:{hashlib.sha256(user_id.encode()).hexdigest()}",
    )


def _user(request: HttpRequest) -> Any:
    """Return who is logged in on a page of ours, or None."""
    user = getattr(request, "user", None)  # where the host has Django's middleware
    if user is None or not is_own_page(request):
        return None
    return user if user.is_authenticated else None


def _check_token(request: HttpRequest) -> None:
    middleware = _Csrf(_nothing)
    middleware.process_request(request)
    middleware.process_view(request, _nothing, (), {})


def _nothing(request: HttpRequest) -> HttpResponse:
    return HttpResponse()


class _Csrf(CsrfViewMiddleware):
    """Django's own check, with our answer; Django REST framework does it by the same method."""

    def _reject(self, request: HttpRequest, reason: str) -> HttpResponseForbidden:
        raise CsrfFailed
