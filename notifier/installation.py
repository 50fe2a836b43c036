"""What a browser needs to install the service as an app: a manifest, icons, and a service worker.

The manifest and the worker are at fixed addresses at the root of the pages. A worker cannot control
pages above its own folder, and browsers look for a new version of it where they found the old one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.templatetags.static import static
from django.urls import reverse
from django.views.decorators.cache import cache_control
from django.views.decorators.http import require_safe
from django.views.generic import RedirectView

WORKER = Path(__file__).resolve().parent.parent / "static/notifier/worker.js"
ICONS = (
    ("app-192.png", "192x192", "any"),
    ("app-512.png", "512x512", "any"),
    ("app-512-maskable.png", "512x512", "maskable"),
)
"""Files, sizes and purposes of the icons, which `tests.support.icons` draws."""


class FaviconRedirect(RedirectView):
    """Shows browsers that ask for /favicon.ico where it is.

    Its name is looked up for each of them: at import, the static files may not be collected yet.
    """

    def get_redirect_url(self, *_args: Any, **_kwargs: Any) -> str:
        """Return the address of the icon."""
        return static("notifier/icons/favicon.ico")


# An hour: the addresses of icons change with their content.
@cache_control(public=True, max_age=3600)
@require_safe
def manifest(_request: HttpRequest) -> HttpResponse:
    """Describe the app (https://www.w3.org/TR/appmanifest/)."""
    start = reverse("live")
    return JsonResponse(
        {
            "id": start,
            "name": "Notifier: live notifications",
            "short_name": "Notifier",
            "description": "Events posted over HTTP appear live in every open browser.",
            "lang": "en",
            "start_url": start,
            "scope": start,
            "display": "standalone",
            "theme_color": "#ffffff",
            "background_color": "#f5f5f2",
            "icons": [
                {
                    "src": static(f"notifier/icons/{name}"),
                    "sizes": sizes,
                    "type": "image/png",
                    "purpose": purpose,
                }
                for name, sizes, purpose in ICONS
            ],
            "shortcuts": [
                {"name": "Chat", "url": reverse("chat")},
                {"name": "API reference", "url": reverse("reference")},
            ],
        },
        content_type="application/manifest+json",
    )


# Browsers compare it with theirs at each navigation, past their own cache; no proxy may keep it.
@cache_control(no_cache=True)
@require_safe
def service_worker(_request: HttpRequest) -> HttpResponse:
    """Send the script of the service worker, which would control `/static/` alone from there."""
    script = WORKER.read_bytes()
    return HttpResponse(script, content_type="text/javascript; charset=utf-8")
