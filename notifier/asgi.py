"""The ASGI application of the service: three kinds of traffic, each on its shortest road."""

from __future__ import annotations

import os
from typing import cast

from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.urls import re_path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "notifier.settings")
# Before anything of `realtime` is imported: it fills the app registry.
django_application = get_asgi_application()

from notifier.bodies import BoundedBodies  # noqa: E402
from notifier.refusal import refuse_websocket  # noqa: E402
from realtime.endpoint import App, HttpEndpoint  # noqa: E402
from realtime.routing import lifespan, websocket_urlpatterns  # noqa: E402

# Channels routes ASGI applications with Django's patterns, whose types know only views.
_otherwise = re_path(r"", refuse_websocket)  # type: ignore[arg-type]

application = ProtocolTypeRouter(
    {
        # The API answers before Django: its views would allow a tenth of the requests (ADR-0009).
        "http": HttpEndpoint(cast(App, BoundedBodies(cast(App, django_application)))),
        "websocket": URLRouter([*websocket_urlpatterns, _otherwise]),
        "lifespan": lifespan,
    }
)
