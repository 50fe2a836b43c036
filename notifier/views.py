"""The pages: live notifications, a chat and the API. Live content comes over the WebSocket."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from notifier.reference import methods, streams
from realtime import personal_channel
from realtime.http.documents import description

LIVE_CHANNEL = "public:news"
FIRST_ROOM = "lobby"
ROOM_LIMIT = 32  # characters; templates/404.html states it, too


# Never cached: with a key in it (DEBUG), the page is useless after the next `make run`.
@never_cache
@require_safe
def live(request: HttpRequest) -> HttpResponse:
    """Show the publications of one public channel, and a form to publish there."""
    context = {
        "channel": LIVE_CHANNEL,
        "own_channel": personal_channel(request.user) if request.user.is_authenticated else "",
        "demo_api_key": getattr(settings, "NOTIFIER_DEMO_API_KEY", ""),
        "api_key_hint": "the value of NOTIFIER_API_KEY",
    }
    return render(request, "notifier/live.html", context)


@never_cache
@require_safe
def reference(request: HttpRequest) -> HttpResponse:
    """Show the HTTP API and the streams, from the service's own descriptions."""
    context = {
        "groups": methods(description("openapi.json")),
        "streams": streams(description("asyncapi.json")),
        "demo_api_key": getattr(settings, "NOTIFIER_DEMO_API_KEY", ""),
    }
    return render(request, "notifier/reference.html", context)


# Never cached: it shows who is logged in.
@never_cache
@require_safe
def chat(request: HttpRequest, room: str = FIRST_ROOM) -> HttpResponse:
    """Show one chat room; 404 if there is no chat."""
    if not getattr(settings, "NOTIFIER_HAS_CHAT", False):
        return render(request, "notifier/chat_off.html", status=404)
    users_may_post, guests_may_post = _posters()
    context = {
        "room": room,
        "channel": f"chat:{room}",
        "room_limit": ROOM_LIMIT,
        "may_post": users_may_post if request.user.is_authenticated else guests_may_post,
        "users_may_post": users_may_post,
    }
    return render(request, "notifier/chat.html", context)


def _posters() -> tuple[bool, bool]:
    """Return whether users and guests may post in the chat, according to its namespace."""
    options: Any = settings.REALTIME_NAMESPACES.get("chat", {})
    rules = ("allow_publish_for_subscriber", "allow_publish_for_client")
    users = any(options.get(rule) for rule in rules)
    return users, users and bool(options.get("allow_publish_for_anonymous"))
