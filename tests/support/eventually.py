"""Wait for the thing, not for a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any


async def eventually(true: Callable[[], Any], seconds: float = 5.0) -> Any:
    """Return what ``true`` gives (it may be async) as soon as it is truthy."""
    deadline = time.monotonic() + seconds
    while True:
        value = true()
        if isinstance(value, Awaitable):
            value = await value
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s")
        await asyncio.sleep(0.01)


def eventually_sync(true: Callable[[], Any], seconds: float = 10.0) -> Any:
    """`eventually` for tests without a loop."""
    deadline = time.monotonic() + seconds
    while not (value := true()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s")
        time.sleep(0.01)
    return value
