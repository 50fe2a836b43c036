"""The ASGI application of the service: routes each kind of traffic as directly as possible."""

from __future__ import annotations

import os
from typing import cast

from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "notifier.settings")
# Before anything of `realtime` is imported, because it fills the app registry.
django_application = get_asgi_application()

from notifier.bodies import BoundedBodies  # noqa: E402
from realtime.endpoint import App, HttpEndpoint  # noqa: E402
from realtime.routing import lifespan, otherwise, websocket_urlpatterns  # noqa: E402

# The API bypasses Django, whose views would handle a tenth of the requests (ADR-0009).
endpoint = HttpEndpoint(
    cast(App, BoundedBodies(cast(App, django_application))),
    api="/api/",
    probes="/",
    owns_site=True,
)
application = ProtocolTypeRouter(
    {
        "http": endpoint,
        "websocket": URLRouter([*websocket_urlpatterns, otherwise]),
        "lifespan": lifespan,
    }
)
