"""Runs a connection in a task of its own, where the server does not.

ASGI does not say that an application runs in a task, and Granian's ``--task-impl rust`` steps it
without one: `asyncio.current_task` returns a placeholder there, which is the same for all
connections, was never initialized and ignores `cancel`. So no timeout fires in it, the hub cannot
end a connection, and all connections share one context.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


def is_in_task() -> bool:
    """Tell whether the running coroutine belongs to a task that can be cancelled."""
    task = asyncio.current_task()
    if task is None:
        return False
    try:
        task.get_loop()
    except RuntimeError:  # "Future object is not initialized."
        return False
    return True


async def run_in_own_task(coroutine: Coroutine[Any, Any, None]) -> None:
    """Await a coroutine in a new task, which ends with the caller."""
    task = asyncio.get_running_loop().create_task(coroutine)
    try:
        await task
    finally:
        task.cancel()
