"""What a probe is told: whether this process lives, and whether it should get traffic."""

from __future__ import annotations

import msgspec

from realtime.api import Response
from realtime.hub import Hub

_encode = msgspec.json.Encoder().encode
PATHS = ("livez", "readyz")


def livez() -> Response:
    """Whoever can answer lives."""
    return Response(200, _encode({"status": "alive"}), {})


def readyz(hub: Hub) -> Response:
    """Tell whether the hub hears the broker, how far behind it is, and if not, why."""
    body: dict[str, object] = {
        "status": "live" if hub.live else "not live",
        "connections": hub.connections,
    }
    if hub.live:
        body["lag_ms"] = round(hub.lag_seconds * 1000, 1)
    else:
        body["reason"] = hub.reason
    return Response(200 if hub.live else 503, _encode(body), {})
