"""What a page of a Django project needs to connect: where, and on another host as whom.

The template tag writes it into the page, and `client.js` reads it there. On a page of the service's
own host the session says who it is; on any other the page fetches a token, from its own host, which
shares REALTIME_TOKEN_SECRET with the service.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode, urlsplit

from asgiref.sync import async_to_sync
from django.contrib.auth.decorators import login_not_required
from django.core.exceptions import ImproperlyConfigured
from django.db import Error as DatabaseError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import NoReverseMatch, get_script_prefix, reverse
from django.views.decorators.http import require_GET

from realtime import wiring
from realtime.api.answers import failure
from realtime.callers import may_have_token
from realtime.conf import ImproperSetting
from realtime.description import info_of
from realtime.errors import Forbidden, RealtimeError, Unauthorized
from realtime.shortcuts import TOKEN_SECONDS, connection_token
from realtime.staff import SessionUnavailable

WEBSOCKET_PATH = "connection/websocket"
STREAM_PATH = "connection/sse"
_PRIVATE = {
    "Cache-Control": "no-store",
    "Vary": "Cookie",
    "X-Content-Type-Options": "nosniff",
    # Not even into another site's process: a token is as good as the session for ten minutes.
    "Cross-Origin-Resource-Policy": "same-origin",
}


def configuration(request: HttpRequest | None) -> dict[str, str]:
    """Return what `connect()` needs to know on the page that is being rendered.

    Raises:
        ImproperlyConfigured: Its users need tokens, and nothing here can make them.
    """
    public = wiring.settings().public_url
    if not public:
        return {"url": get_script_prefix() + WEBSOCKET_PATH}
    found = {"url": _websocket(public)}
    user = getattr(request, "user", None)
    if user is not None and user.is_authenticated:
        found["tokenUrl"] = _token_url()
    return found


def stream_url(channels: Sequence[str]) -> str:
    """Return the address of the event stream of some channels."""
    query = urlencode([("channel", channel) for channel in channels])
    public = wiring.settings().public_url
    if not public:
        return f"{get_script_prefix()}{STREAM_PATH}?{query}"
    parts = urlsplit(public)
    scheme = {"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme)
    return f"{scheme}://{parts.netloc}/{STREAM_PATH}?{query}"


def _websocket(public: str) -> str:
    parts = urlsplit(public)
    if parts.path.strip("/"):
        return public  # the address of the WebSocket itself
    return f"{parts.scheme}://{parts.netloc}/{WEBSOCKET_PATH}"


def _token_url() -> str:
    if not wiring.settings().token_secret:
        raise ImproperSetting(
            "REALTIME_TOKEN_SECRET",
            "is not set: REALTIME_PUBLIC_URL names another host, which knows users by tokens only",
        )
    try:
        return reverse("realtime:token")
    except NoReverseMatch as error:
        raise ImproperlyConfigured(
            'path("live/", include("realtime.urls")) is missing: pages fetch their tokens there'
        ) from error


@login_not_required  # the middleware would answer with a log-in form
@require_GET
def token(request: HttpRequest) -> HttpResponse:
    """Answer with a connection token for the user of the session: ``{"token", "expires_in"}``.

    403 where nobody is logged in: that is what tells the stock SDKs' `getToken` to stop. The same
    where a page of another site asks, or of this host by plain HTTP.
    """
    try:
        if not may_have_token(request):
            raise Forbidden
        user = _user(request)
        made = connection_token(
            user,
            seconds=TOKEN_SECONDS,
            info=_info(user),
            session=getattr(getattr(request, "session", None), "session_key", None) or "",
        )
    except (Unauthorized, Forbidden) as error:
        return _refused(error, 403)
    except RealtimeError as error:
        return _refused(error)
    return JsonResponse({"token": made, "expires_in": TOKEN_SECONDS}, headers=_PRIVATE)


def _user(request: HttpRequest) -> Any:
    user = getattr(request, "user", None)
    try:
        known = user is not None and user.is_authenticated
    except DatabaseError as error:
        raise SessionUnavailable(str(error)) from error
    if not known:
        raise Unauthorized("nobody is logged in on this page")
    return user


def _info(user: Any) -> Any:
    text = async_to_sync(info_of)(user, wiring.user_info())
    return json.loads(text) if text else None


def _refused(error: RealtimeError, status: int | None = None) -> HttpResponse:
    answer = failure(error)
    # WWW-Authenticate would ask for an API key, which is nothing for a page.
    headers = {name: value for name, value in answer.headers.items() if name == "Retry-After"}
    return HttpResponse(
        answer.body,
        status=status or answer.status,
        content_type="application/json",
        headers={**headers, **_PRIVATE},
    )
