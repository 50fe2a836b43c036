"""The pages: live notifications, a chat and the API. Live content comes over the WebSocket."""

from __future__ import annotations

from functools import partial
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from notifier.measuring import read_all_workers
from notifier.reference import guides, methods, streams
from notifier.samples import KEY, LANGUAGES
from realtime import __version__, personal_channel
from realtime.core.identity import Identity
from realtime.core.namespaces import Namespaces
from realtime.http.documents import description
from realtime.wiring import read_metrics

LIVE_CHANNEL = "public:news"
FIRST_ROOM = "lobby"
A_USER = Identity("somebody")
"""Any user who is logged in: what the rules of the chat allow does not depend on who it is."""
ROOM_LIMIT = 32  # characters; templates/404.html states it, too


def footer(_request: HttpRequest) -> dict[str, str]:
    """Give all templates what the footer shows (a context processor)."""
    return {
        "version": __version__,
        "documentation_url": getattr(settings, "NOTIFIER_DOCUMENTATION_URL", ""),
    }


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
        # The page counts the browsers that have it open, where the service has the namespace.
        "visitors_channel": "demo:visitors" if _has_namespace("demo") else "",
        "may_stop_redis": getattr(settings, "NOTIFIER_MAY_STOP_REDIS", False),
    }
    return render(request, "notifier/live.html", context)


@never_cache
@require_safe
def reference(request: HttpRequest) -> HttpResponse:
    """Show the HTTP API and the streams, from the service's own descriptions."""
    root = reverse("live").removesuffix("/")
    site = request.build_absolute_uri(root or "/").removesuffix("/")
    context = {
        "site": site,
        "groups": methods(description("openapi.json"), site),
        "streams": streams(description("asyncapi.json", root), site),
        "languages": LANGUAGES,
        "key_variable": KEY,
        "guides": guides(),
        "demo_api_key": getattr(settings, "NOTIFIER_DEMO_API_KEY", ""),
    }
    return render(request, "notifier/reference.html", context)


async def metrics(request: HttpRequest) -> HttpResponse:
    """Show the metrics of all workers to holders of NOTIFIER_METRICS_KEY."""
    from realtime.contrib.metrics import answer, refuse  # loads prometheus-client: 30 ms

    refused = refuse(request)
    if refused is not None:
        return refused
    return answer(request, await read_all_workers() or read_metrics())


def _has_namespace(name: str) -> bool:
    return name in settings.REALTIME_NAMESPACES


# Never cached: it shows who is logged in.
@never_cache
@require_safe
def chat(request: HttpRequest, room: str = FIRST_ROOM) -> HttpResponse:
    """Show one chat room; 404 if there is no chat."""
    if not getattr(settings, "NOTIFIER_HAS_CHAT", False):
        return render(request, "notifier/chat_off.html", status=404)
    channel = f"chat:{room}"
    namespaces: Any = settings.REALTIME_NAMESPACES
    may_publish = partial(Namespaces(namespaces).may_publish, channel, subscribed=True)
    users_may_post = bool(may_publish(A_USER))
    context = {
        "room": room,
        "channel": channel,
        "room_limit": ROOM_LIMIT,
        "may_post": users_may_post if request.user.is_authenticated else bool(may_publish()),
        "users_may_post": users_may_post,
    }
    return render(request, "notifier/chat.html", context)
