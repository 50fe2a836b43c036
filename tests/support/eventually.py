"""Wait for the thing, not for a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from tests.support.machine import allowed


async def eventually(true: Callable[[], Any], seconds: float = 10.0) -> Any:
    """Return what ``true`` gives (it may be async) as soon as it is truthy.

    The seconds are those of a reference machine that is not busy (`tests.support.machine`).
    """
    began = time.monotonic()
    while True:
        value = true()
        if isinstance(value, Awaitable):
            value = await value
        if value:
            return value
        _give_up(seconds, began)
        await asyncio.sleep(0.01)


def eventually_sync(true: Callable[[], Any], seconds: float = 10.0) -> Any:
    """`eventually` for tests without a loop."""
    began = time.monotonic()
    while not (value := true()):
        _give_up(seconds, began)
        time.sleep(0.01)
    return value


def _give_up(seconds: float, began: float) -> None:
    took = time.monotonic() - began
    # Most questions are asked long before: the machine's pace is asked for only then.
    if took > seconds and took > allowed(seconds, began):
        raise AssertionError(f"not within {seconds} s ({took:.1f} s on this machine)")
