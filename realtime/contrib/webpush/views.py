"""Addresses for pages: the public key, subscribing a browser, and its service worker."""

from __future__ import annotations

import json
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.contrib.auth.decorators import login_not_required
from django.db import transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.middleware.csrf import get_token
from django.views.decorators.cache import cache_control, never_cache
from django.views.decorators.http import require_POST, require_safe

from realtime import wiring
from realtime.contrib.webpush.fallbacks import private_key
from realtime.contrib.webpush.models import (
    ENDPOINT_LIMIT,
    KEY_LIMIT,
    BrowserSubscription,
    hash_endpoint,
)
from realtime.contrib.webpush.sending import BROWSERS_LIMIT, endpoint_of
from realtime.identity.web_push import decode_keys, public_text

if TYPE_CHECKING:
    from collections.abc import Callable

BODY_BYTES = 8 * 1024
WORKER = Path(__file__).parent / "static" / "realtime" / "webpush-worker.js"


def _for_users(view: Callable[[HttpRequest], HttpResponse]) -> Callable[..., HttpResponse]:
    """Answer 401 to guests, and not a redirect to the login, which a script would follow."""

    @login_not_required
    @never_cache
    @wraps(view)
    def check_user(request: HttpRequest) -> HttpResponse:
        user = getattr(request, "user", None)
        if user is None or not user.is_authenticated:
            return _refuse(401, "unauthorized", "log in first")
        return view(request)

    return check_user


@require_safe
@_for_users
def config(request: HttpRequest) -> HttpResponse:
    """Return what a page needs to subscribe: the public key, and the CSRF token of its POST."""
    return JsonResponse({"key": public_text(private_key()), "csrf": get_token(request)})


@require_POST
@_for_users
def subscribe(request: HttpRequest) -> HttpResponse:
    """Store the browser of a user: the body is ``PushSubscription.toJSON()``.

    A browser that another user has subscribed before is that of the one who is logged in now.
    """
    given = _read(request)
    endpoint, keys = given.get("endpoint"), given.get("keys")
    if not isinstance(endpoint, str) or not isinstance(keys, dict) or not _is_valid(endpoint, keys):
        return _refuse(400, "bad_request", "this is not a subscription that can be used")
    with transaction.atomic():
        BrowserSubscription._default_manager.update_or_create(
            endpoint_hash=hash_endpoint(endpoint),
            defaults={
                "user": request.user,
                "endpoint": endpoint,
                "p256dh": keys["p256dh"],
                "auth": keys["auth"],
            },
        )
        _delete_oldest(request.user)
    return JsonResponse({}, status=201)


@require_POST
@_for_users
def unsubscribe(request: HttpRequest) -> HttpResponse:
    """Forget a browser of the user: the body has its ``endpoint``."""
    endpoint = _read(request).get("endpoint")
    if not isinstance(endpoint, str):
        return _refuse(400, "bad_request", "endpoint is missing")
    own = BrowserSubscription._default_manager.filter(user=request.user)
    own.filter(endpoint_hash=hash_endpoint(endpoint)).delete()
    return JsonResponse({})


# Browsers compare it with theirs at each navigation, past their own cache; no proxy may keep it.
@login_not_required
@cache_control(no_cache=True)
@require_safe
def worker(_request: HttpRequest) -> HttpResponse:
    """Send the script of the service worker, which may control all pages of the site."""
    headers = {"Service-Worker-Allowed": "/", "X-Content-Type-Options": "nosniff"}
    return HttpResponse(WORKER.read_bytes(), content_type="text/javascript", headers=headers)


def _is_valid(endpoint: str, keys: dict[str, Any]) -> bool:
    texts = (keys.get("p256dh"), keys.get("auth"))
    if not all(isinstance(text, str) and len(text) <= KEY_LIMIT for text in texts):
        return False
    may_be_private = wiring.settings().webpush_allow_private
    is_address = len(endpoint) <= ENDPOINT_LIMIT and endpoint_of(endpoint, may_be_private)
    return bool(is_address) and decode_keys(*map(str, texts)) is not None


def _delete_oldest(user: Any) -> None:
    own = BrowserSubscription._default_manager.filter(user=user).order_by("-pk")
    extra = list(own.values_list("pk", flat=True)[BROWSERS_LIMIT:])
    if extra:
        own.filter(pk__in=extra).delete()


def _read(request: HttpRequest) -> dict[str, Any]:
    """Parse the body; an empty object if it is not one."""
    body = request.read(BODY_BYTES + 1)
    try:
        given = json.loads(body) if len(body) <= BODY_BYTES else {}
    except (ValueError, RecursionError):
        return {}
    return given if isinstance(given, dict) else {}


def _refuse(status: int, code: str, message: str) -> HttpResponse:
    return JsonResponse({"error": {"code": code, "message": message}}, status=status)
