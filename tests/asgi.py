"""The host project's ASGI application, as the README tells a host to write it."""

from __future__ import annotations

import os

from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
django = get_asgi_application()

from realtime.routing import lifespan, websocket_urlpatterns  # noqa: E402 - Django must be set up before

application = ProtocolTypeRouter(
    {
        "http": django,
        "websocket": URLRouter(websocket_urlpatterns),
        "lifespan": lifespan,
    }
)
