"""What a probe is told: whether this process lives, and whether it should get traffic."""

from __future__ import annotations

import msgspec

from realtime import wiring
from realtime.api.answers import Response, only_get
from realtime.errors import ConfigurationError

_encode = msgspec.json.Encoder().encode
PATHS = ("livez", "readyz")


def answer(name: str, http_method: str) -> Response:
    """Answer a probe: one of `PATHS`, without the slash."""
    if http_method not in ("GET", "HEAD"):
        return only_get()
    return livez() if name == "livez" else readyz()


def livez() -> Response:
    """Whoever can answer lives."""
    return _response(200, {"status": "alive"})


def readyz() -> Response:
    """Tell whether the running loop's hub hears the broker, how far behind it is, or why not."""
    try:
        hub = wiring.node().running_hub()
    except ConfigurationError as error:
        return _response(503, {"status": "not live", "reason": str(error)})
    body: dict[str, object] = {
        "status": "live" if hub.live else "not live",
        "connections": len(hub.connections),
    }
    if hub.neighbours.others:
        body["warning"] = "another service uses the same Redis channels; see the log"
    if hub.live:
        body["lag_ms"] = round(hub.lag_seconds * 1000, 1)
    else:
        body["reason"] = hub.reason
    return _response(200 if hub.live else 503, body)


def _response(status: int, body: dict[str, object]) -> Response:
    return Response(status, _encode(body) + b"\n", {})
