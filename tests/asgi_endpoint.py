"""The host project of `tests.asgi` with the fast rim of the HTTP API in front of Django."""

from __future__ import annotations

import os
from typing import Any

from channels.routing import ProtocolTypeRouter

from tests.asgi import application as host

from realtime.endpoint import HttpEndpoint  # isort: skip - Django must be set up before

body_seconds = float(os.environ.get("TEST_BODY_SECONDS", "10"))
routes: dict[str, Any] = dict(host.application_mapping)
application = ProtocolTypeRouter(
    {**routes, "http": HttpEndpoint(routes["http"], body_seconds=body_seconds)}
)
