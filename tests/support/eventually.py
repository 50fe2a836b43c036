"""Waits for a condition instead of a fixed time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from realtime.errors import BrokerError
from tests.support.machine import allowed


async def eventually(true: Callable[[], Any], seconds: float = 10.0) -> Any:
    """Return the result of ``true`` (which may be async) as soon as it is truthy.

    The seconds are those of an idle reference machine (`tests.support.machine`). A question that
    Redis does not answer, which has a deadline of its own, is asked again.
    """
    began = time.monotonic()
    while True:
        value = None
        problem: BrokerError | None = None
        try:
            value = true()
            if isinstance(value, Awaitable):
                value = await value
        except BrokerError as error:
            problem = error
        if value:
            return value
        _give_up(seconds, began, problem)
        await asyncio.sleep(_pause(began))


def eventually_sync(true: Callable[[], Any], seconds: float = 10.0) -> Any:
    """Return the result of ``true`` as `eventually` does, in tests without an event loop."""
    began = time.monotonic()
    while True:
        value = None
        problem: BrokerError | None = None
        try:
            value = true()
        except BrokerError as error:
            problem = error
        if value:
            return value
        _give_up(seconds, began, problem)
        time.sleep(_pause(began))


def _pause(began: float) -> float:
    """Return the pause before the next check: a tenth of the time so far, to save CPU time."""
    return min(max(0.005, (time.monotonic() - began) / 10), 0.1)


def _give_up(seconds: float, began: float, problem: BrokerError | None) -> None:
    took = time.monotonic() - began
    # Most conditions hold long before, so the machine is only measured if they do not.
    if took > seconds and took > allowed(seconds, began):
        raise AssertionError(f"not within {seconds} s ({took:.1f} s on this machine)") from problem
