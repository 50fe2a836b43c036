"""Awaits the host's code and converts everything that it raises to an `Exception`.

The host may raise two exceptions that do not derive from `Exception` and have side effects here.
`CancelledError` normally means that the caller was cancelled, but the host also raises it when a
task that it shares between calls is cancelled. `SystemExit` bypasses every handler, stops the event
loop, and ends the process for all clients.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

T = TypeVar("T")


async def of_host(answer: Awaitable[T]) -> T:
    """Return the result of the host's code, or raise its exception as an `Exception`.

    A cancellation of the calling task, or a timeout around it, is not converted and propagates into
    the host's awaitable. A host that shares a task between calls must shield it, as shown in
    docs/protocol.md. We cannot shield it here, because a call must end when its caller has gone.
    """
    try:
        return await answer
    except SystemExit as error:  # argparse and Django's commands raise it
        raise RuntimeError(repr(error)) from error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise RuntimeError("it was cancelled, but not by this server") from error


def failure_of(task: asyncio.Task[Any]) -> BaseException | None:
    """Return the exception of a finished task; a cancellation counts as a failure, too.

    Call it only for a task whose result is still needed; callers that cancel a task drop it first.
    Then only the host can have cancelled it, through `asyncio.current_task`, which `of_host` cannot
    distinguish from our own cancellation.

    It also marks the exception as retrieved; otherwise asyncio would log it.
    """
    try:
        return task.exception()
    except asyncio.CancelledError as error:
        return error
