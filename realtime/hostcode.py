"""Awaits code of the host, and tells how it ended, whatever it raised.

Two things that the host may raise are no `Exception`, and mean more here than it knows. A
cancellation says that nobody waits any more; but the host also raises it when somebody cancels a
task that it shares between calls. An exit goes past every handler, through the event loop, and ends
the process for all clients.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

T = TypeVar("T")


async def of_host(answer: Awaitable[T]) -> T:
    """Return what code of the host returns, or raise what it raises, as an `Exception`.

    A cancellation of the task that calls this, and a timeout around it, stay what they are.
    """
    try:
        return await answer
    except SystemExit as error:  # argparse and Django's commands raise it
        raise RuntimeError(repr(error)) from error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise RuntimeError("it was cancelled, and not by this server") from error


def failure_of(task: asyncio.Task[Any]) -> BaseException | None:
    """Return what a task that is done has failed with; being cancelled is a failure, too.

    Call it only for a task that is still waited for: whoever gives a task up drops it first. Then
    only the host can have cancelled it, through `asyncio.current_task`, which `of_host` cannot tell
    from a cancellation of ours.

    It also marks the error as seen: asyncio logs one that nobody has looked at.
    """
    try:
        return task.exception()
    except asyncio.CancelledError as error:
        return error
