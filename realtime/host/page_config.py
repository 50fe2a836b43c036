"""What a page of a Django project needs to connect: the URL and, on another host, a token.

The template tag writes it into the page, and `client.js` reads it there. On a page of the service's
own host the session identifies the user; on any other the page fetches a token from its own host,
which shares REALTIME_TOKEN_SECRET with the service.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from asgiref.sync import async_to_sync
from django.contrib.auth.decorators import login_not_required
from django.core.exceptions import ImproperlyConfigured
from django.db import Error as DatabaseError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import NoReverseMatch, get_script_prefix, reverse
from django.utils.crypto import salted_hmac
from django.views.decorators.http import require_GET

from realtime import wiring
from realtime.api.answers import failure
from realtime.auth.sessions import SessionUnavailable
from realtime.auth.user_info import info_of
from realtime.conf import ImproperSetting
from realtime.core import paths
from realtime.core.names import users_of
from realtime.errors import Forbidden, RealtimeError, Unauthorized
from realtime.host.page_positions import positions_of
from realtime.host.user_tokens import TOKEN_SECONDS, connection_token
from realtime.transports.callers import may_have_token
from realtime.transports.sse_format import UNKNOWN_POSITION, place_text

if TYPE_CHECKING:
    from realtime.host.page_positions import Known

_PRIVATE = {
    "Cache-Control": "no-store",
    "Vary": "Cookie",
    "X-Content-Type-Options": "nosniff",
    # It must not enter another site's process either: for ten minutes, a token is as good as the
    # session.
    "Cross-Origin-Resource-Policy": "same-origin",
}


def configuration(request: HttpRequest | None, *, shared: bool = False) -> dict[str, Any]:
    """Return what `connect()` needs on the page that is being rendered.

    That includes the positions of its data, where `live_views` has read them.

    Args:
        request: The request for the page.
        shared: Whether the page shares a connection with the other tabs of its session.

    Raises:
        ImproperlyConfigured: Its users need tokens, and this project cannot issue them.
    """
    found: dict[str, Any] = {}
    if positions := positions_of(request):
        found["positions"] = {name: at and at._asdict() for name, at in positions.items()}
    if shared and request is not None:
        found["session"] = _session_name(request)
    public = wiring.settings().public_url
    if not public:
        return {"url": _path(paths.WEBSOCKET), **found}
    found["url"] = _websocket(public)
    user = getattr(request, "user", None)
    if user is not None and user.is_authenticated:
        found["tokenUrl"] = _token_url()
    return found


def stream_url(channels: Sequence[str], positions: Known) -> str:
    """Return the URL of the event stream for some channels, since the positions of the page's data.

    Those of the user's own channels count, too: the server subscribes the user to them.
    """
    since = [
        ("since", place_text(name, at or UNKNOWN_POSITION))
        for name, at in positions.items()
        if name in channels or users_of(name) is not None
    ]
    query = urlencode([*(("channel", channel) for channel in channels), *since])
    public = wiring.settings().public_url
    if not public:
        return f"{_path(paths.SSE)}?{query}"
    parts = urlsplit(public)
    scheme = {"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme)
    prefix, websocket, _ = parts.path.partition(f"/{paths.WEBSOCKET}")
    if not websocket:
        prefix = ""
    return f"{scheme}://{parts.netloc}{prefix}/{paths.SSE}?{query}"


def _path(path: str) -> str:
    return get_script_prefix() + wiring.settings().path_prefix[1:] + path


def _session_name(request: HttpRequest) -> str:
    """Return a name that the pages of one session have in common, and no others.

    Tabs with the same name share a connection. A login and a logout change the key of the session.
    The name reveals neither the key nor the user.
    """
    session = getattr(request, "session", None)
    if session is not None:
        session.accessed = True  # reading the key alone would not make the response vary by cookie
    key = getattr(session, "session_key", None)
    user = getattr(request, "user", None)
    user_id = str(user.pk) if user is not None and user.is_authenticated else None
    return salted_hmac("realtime.shared", json.dumps([key, user_id])).hexdigest()[:32]


def _websocket(public: str) -> str:
    parts = urlsplit(public)
    if parts.path.strip("/"):
        return public  # already the URL of the WebSocket itself
    return f"{parts.scheme}://{parts.netloc}/{paths.WEBSOCKET}"


def _token_url() -> str:
    if not wiring.settings().token_secret:
        raise ImproperSetting(
            "REALTIME_TOKEN_SECRET",
            "is not set, but REALTIME_PUBLIC_URL names another host, which requires tokens",
        )
    try:
        return reverse("realtime:token")
    except NoReverseMatch as error:
        raise ImproperlyConfigured(
            'add path("live/", include("realtime.urls")) to the URLs: pages fetch tokens there'
        ) from error


@login_not_required  # the middleware would redirect to a login form
@require_GET
def token(request: HttpRequest) -> HttpResponse:
    """Respond with a connection token for the session's user: ``{"token", "expires_in"}``.

    The status is 403 if nobody is logged in, which tells `getToken` of the stock SDKs to stop, and
    also for requests from pages of another site, or from this host over plain HTTP.
    """
    try:
        if not may_have_token(request) or wiring.settings().session_user_prefix:
            raise Forbidden  # in the second case, the session is enough on the pages of this host
        user = _user(request)
        made = connection_token(
            user,
            seconds=TOKEN_SECONDS,
            info=_info(user),
            session=getattr(getattr(request, "session", None), "session_key", None) or "",
        )
    except (Unauthorized, Forbidden) as error:
        return _refuse(error, 403)
    except RealtimeError as error:
        return _refuse(error)
    return JsonResponse({"token": made, "expires_in": TOKEN_SECONDS}, headers=_PRIVATE)


def _user(request: HttpRequest) -> Any:
    user = getattr(request, "user", None)
    try:
        known = user is not None and user.is_authenticated
    except DatabaseError as error:
        raise SessionUnavailable(str(error)) from error
    if not known:
        raise Unauthorized("no user is logged in")
    return user


def _info(user: Any) -> Any:
    text = async_to_sync(info_of)(user, wiring.user_info())
    return json.loads(text) if text else None


def _refuse(error: RealtimeError, status: int | None = None) -> HttpResponse:
    answer = failure(error)
    # WWW-Authenticate would ask for an API key, which a page does not have.
    headers = {name: value for name, value in answer.headers.items() if name == "Retry-After"}
    return HttpResponse(
        answer.body,
        status=status or answer.status,
        content_type="application/json",
        headers={**headers, **_PRIVATE},
    )
