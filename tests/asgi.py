"""The host project's ASGI application, written as the README shows it."""

from __future__ import annotations

import os

from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
django = get_asgi_application()

from realtime.routing import (  # noqa: E402 - Django must be set up before
    lifespan,
    otherwise,
    require_upgrade,
    websocket_urlpatterns,
)

application = ProtocolTypeRouter(
    {
        "http": require_upgrade(django),
        "websocket": URLRouter([*websocket_urlpatterns, otherwise]),
        "lifespan": lifespan,
    }
)
