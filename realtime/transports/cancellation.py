"""Tells the cancellations that end one connection from those that others wait for.

The task of a connection is cancelled by its `Writer`, when another task ends the connection, and by
uvicorn, when ``--timeout-graceful-shutdown`` is over: it would log a traceback for each task that
then ends with `CancelledError`. Both cancel this connection and nothing around it, so it ends as if
its client had left. Any other cancellation belongs to a timeout, a task group or a middleware
around the application, which relies on the error (`asyncio.Task.uncancel`).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from realtime.core.codes import SHUTDOWN

if TYPE_CHECKING:
    from realtime.delivery.conversation import Conversation

OF_UVICORN = "timeout graceful shutdown exceeded"
"""What uvicorn says when it cancels the tasks of requests (`Server.shutdown`). A version that says
something else logs the tracebacks again, and tests/e2e/test_servers.py fails."""


def absorb_cancellation(error: asyncio.CancelledError, conversation: Conversation) -> None:
    """Go on after a cancellation that ends this connection alone; it has ended then.

    Must be called in the connection's task, before `Writer.finish`.

    Args:
        error: What the task has caught.
        conversation: The connection.

    Raises:
        CancelledError: Somebody else has cancelled the task, perhaps at the same time.
    """
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - ASGI apps run in tasks
    ours = (conversation.writer.ends_task, _is_of_uvicorn(error)).count(True)
    for _ in range(ours):
        task.uncancel()
    if not ours or task.cancelling():
        raise error
    conversation.end(SHUTDOWN)


def _is_of_uvicorn(error: asyncio.CancelledError) -> bool:
    return any(OF_UVICORN in str(each) for each in error.args)
