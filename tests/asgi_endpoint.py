"""The host project of `tests.asgi` with the fast rim of the HTTP API in front of Django."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

from channels.routing import ProtocolTypeRouter

from tests.asgi import application as host

from realtime.endpoint import HttpEndpoint  # isort: skip - Django must be set up before


class WithUser:
    """The host's own authentication, only for tests: it trusts the user named in the cookie."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        for name, value in scope["headers"]:
            if name == b"cookie" and value.startswith(b"user="):
                user = SimpleNamespace(pk=value.decode()[5:], is_authenticated=True)
                scope = scope | {"user": user}
        await self._app(scope, receive, send)


body_seconds = float(os.environ.get("TEST_BODY_SECONDS", "10"))
routes: dict[str, Any] = dict(host.application_mapping)
application = ProtocolTypeRouter(
    {
        **routes,
        "http": WithUser(HttpEndpoint(routes["http"], api="/api/", body_seconds=body_seconds)),
    }
)
