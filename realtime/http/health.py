"""Answers probes: whether this process is alive, and whether it should get traffic.

Probes have no key, so anyone may read the answers. They never quote an error, whose text may name
hosts, ports and paths (CWE-209); the log has it.
"""

from __future__ import annotations

import logging
import time

import msgspec

from realtime import wiring
from realtime.api.answers import NOT_CONFIGURED, Response, only_get
from realtime.core import paths
from realtime.core.tally import Tally
from realtime.errors import ConfigurationError

logger = logging.getLogger(__name__)

_tally = Tally()
_encode = msgspec.json.Encoder().encode


def answer(name: str, http_method: str) -> Response:
    """Answer a probe: one of `paths.PROBES`."""
    if http_method not in ("GET", "HEAD"):
        return only_get()
    return livez() if name == paths.LIVEZ else readyz()


def livez() -> Response:
    """Answer that the process is alive: it is, if it can answer."""
    return _response(200, {"status": "alive"})


def readyz() -> Response:
    """Answer whether this event loop's hub is live, with its lag or the reason why not."""
    try:
        hub = wiring.node().probed_hub()
    except ConfigurationError as error:
        if count := _tally.add("configuration", time.monotonic()):
            logger.error("not configured: %s (%d probes so far)", error, count)
        return _response(503, {"status": "not live", "reason": NOT_CONFIGURED})
    body: dict[str, object] = {
        "status": "live" if hub.live else "not live",
        "connections": len(hub.connections),
    }
    if hub.neighbours.others:
        body["warning"] = "another service uses the same Redis channels; see the log"
    if hub.live:
        body["lag_ms"] = round(hub.lag_seconds * 1000, 1)
        if hub.lost_channels:
            body["lost_channels"] = hub.lost_channels
            body["reason"] = "a part of Redis does not answer; see the log"
    else:
        body["reason"] = hub.reason
    return _response(200 if hub.live else 503, body)


def _response(status: int, body: dict[str, object]) -> Response:
    return Response(status, _encode(body) + b"\n", {})
