"""Stops the Redis of `make run` for three seconds, so that people see what happens then.

Only the private Valkey, which nobody else uses, and only in DEBUG on this machine (see
`NOTIFIER_MAY_STOP_REDIS` in the settings).
"""

from __future__ import annotations

import threading
import time

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.http import require_POST

from realtime.errors import BrokerError
from realtime.wiring import redis_broker

SECONDS = 3.0
"""Three times the deadline of a publish: some are certainly not published, and some unknown."""
_changing = threading.Lock()
_over_at = 0.0


@require_POST
def stop_redis(request: HttpRequest) -> HttpResponse:
    """Let Redis answer nobody for `SECONDS`: ``{"seconds": 3.0}``.

    Status 404 if the service may not, 409 while it is stopped, 503 if it does not answer anyway.
    """
    global _over_at  # one Redis for this process
    if not getattr(settings, "NOTIFIER_MAY_STOP_REDIS", False):
        return _refuse(404, "Only the private Valkey of `make run` can be stopped.")
    with _changing:
        if time.monotonic() < _over_at:
            return _refuse(409, "Redis is stopped already.")
        try:
            # Redis itself goes on after that time, whatever becomes of this process.
            redis_broker().ask([("CLIENT", "PAUSE", str(int(SECONDS * 1000)), "ALL")])
        except BrokerError:
            return _refuse(503, "Redis is unreachable.")
        _over_at = time.monotonic() + SECONDS
    return JsonResponse({"seconds": SECONDS})


def _refuse(status: int, message: str) -> HttpResponse:
    return JsonResponse({"error": {"message": message}}, status=status)
