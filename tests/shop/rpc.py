"""The host's answers to clients."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from realtime.core.identity import Identity
from realtime.errors import Forbidden, InvalidData

said: list[Any] = []
held = threading.Event()
_late: list[asyncio.Event] = []


async def answer_late(identity: Identity, method: str, data: Any) -> Any:
    """Answer `hold` when somebody calls `release`; used as TEST_RPC."""
    if method == "hold":
        _late.append(asyncio.Event())
        await _late[-1].wait()
    if method == "release":
        while _late:
            _late.pop().set()


def answer(identity: Identity, method: str, data: Any) -> Any:
    if method == "":
        said.append(data)
        return None
    if method == "said":
        return said
    if method == "who":
        return {"user": identity.user, "data": data}
    if method == "forbid":
        raise Forbidden
    if method == "wrong":
        raise InvalidData("that is not how it goes")
    if method == "hold":
        return held.wait(10)
    if method == "release":
        held.set()
        return None
    if method == "nothing":
        return None
    if method == "no-json":
        return object()
    raise ValueError("a secret of the host")
