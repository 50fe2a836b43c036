"""Lets a logged-in member of the staff publish from a page of this site, without an API key.

Browsers add the session cookie to requests from any page. So it only counts on requests from the
site's own pages, and only with the CSRF token, which other pages cannot know. Django checks both
the session and the token.
"""

from __future__ import annotations

import hashlib
from collections.abc import MutableMapping
from copy import copy
from io import BytesIO
from typing import Any

from channels.db import database_sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.db import Error as DatabaseError
from django.http import HttpRequest, HttpResponse, HttpResponseForbidden
from django.middleware.csrf import CsrfViewMiddleware

from realtime import wiring
from realtime.api.keys import BY_DEFAULT, NO_KEY, Key
from realtime.api.request import Request, check_head
from realtime.auth.sessions import SessionUnavailable
from realtime.connection.hostcode import of_host
from realtime.errors import Forbidden, RequestError, Unauthorized
from realtime.transports.callers import is_own_page

STAFF_METHODS = frozenset(BY_DEFAULT)


class CsrfFailed(RequestError):
    """The header X-CSRFToken must contain the CSRF token of this page."""

    code = "csrf_failed"


async def look_up_session(scope: MutableMapping[str, Any], head: Request) -> None:
    """Call `key_of_session` for an ASGI request, before its body is read.

    Raises:
        RealtimeError: As `key_of_session` does.
    """
    await of_host(database_sync_to_async(_look_up)(scope, head))


def _look_up(scope: MutableMapping[str, Any], head: Request) -> None:
    # Not every host has these two installed; `has_session` has checked that this one does.
    from django.contrib.auth.middleware import AuthenticationMiddleware
    from django.contrib.sessions.middleware import SessionMiddleware

    check_head(head)  # before the database is asked
    request = ASGIRequest(scope, BytesIO())
    # Django's own middleware; its attributes of the request are lazy.
    SessionMiddleware(_no_response).process_request(request)
    AuthenticationMiddleware(_no_response).process_request(request)
    key_of_session(request, head)


def key_of_session(request: HttpRequest, head: Request) -> Key:
    """Return a key with what the user of the page may do.

    Raises:
        UnsupportedMediaType: The body is not JSON; a form, for example, can come from any page.
        TooLarge: The announced length of the body is over the limit.
        Unauthorized: The request is not from a page of this site, or its user is not logged in.
        Forbidden: The user is not a member of the staff.
        CsrfFailed: The CSRF token is missing or wrong.
        SessionUnavailable: The database is unreachable.
    """
    check_head(head)  # before Django looks for the token in the fields of a form
    try:
        user = _user(request)
    except DatabaseError as error:
        raise SessionUnavailable(str(error)) from error
    if user is None:
        raise Unauthorized(NO_KEY)
    if not (user.is_active and user.is_staff):
        raise Forbidden
    _check_token(request)
    user_id = wiring.user_table().id_of(str(user.pk))
    return Key(
        f"staff:{ascii(user_id)[1:-1][:40]}",
        b"",
        methods=STAFF_METHODS,
        # The name is shortened for the log, and two users must not share a scope.
        holder=f"staff:{hashlib.sha256(user_id.encode()).hexdigest()}",
    )


def _user(request: HttpRequest) -> Any:
    """Return the user who is logged in on a page of this site, or None."""
    user = getattr(request, "user", None)  # absent without Django's middleware
    if user is None or not is_own_page(request):
        return None
    return user if user.is_authenticated else None


def _check_token(request: HttpRequest) -> None:
    # For a POST, Django would first look for the token in the form fields. That would read the
    # body, which may be an event with a form's content type.
    only_head = copy(request)
    only_head.method = "PUT"
    middleware = _Csrf(_no_response)
    middleware.process_request(only_head)
    middleware.process_view(only_head, _no_response, (), {})


def _no_response(request: HttpRequest) -> HttpResponse:
    return HttpResponse()


class _Csrf(CsrfViewMiddleware):
    """Django's own check, with our error; Django REST framework overrides the same method."""

    def _reject(self, request: HttpRequest, reason: str) -> HttpResponseForbidden:
        raise CsrfFailed
