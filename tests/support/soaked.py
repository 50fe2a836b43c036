"""The service's application, with counts that only the process itself can provide."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Awaitable, Callable
from typing import Any

from notifier.asgi import application as service

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


async def application(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Answer ``/count`` with the number of tasks and objects; the service answers the rest."""
    if scope["type"] != "http" or scope["path"] != "/count":
        await service(scope, receive, send)
        return
    gc.collect()
    counts = {"tasks": len(asyncio.all_tasks()), "objects": len(gc.get_objects())}
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(counts).encode()})
