"""Advances an awaitable by one step outside of the task that it belongs to.

During the step, the current task is the one that the awaitable belongs to: `asyncio.timeout` needs
a task, and when it fires, it must cancel that task and not the caller's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterator
from typing import Any


class as_current_task:
    """A context in which a given task is the current one (asyncio docs, "Extending")."""

    __slots__ = ("_before", "_loop", "_task")

    def __init__(self, task: asyncio.Task[Any], loop: asyncio.AbstractEventLoop) -> None:
        self._task = task
        self._loop = loop

    def __enter__(self) -> None:
        self._before = asyncio.current_task(self._loop)
        if self._before is not None:
            asyncio._leave_task(self._loop, self._before)
        asyncio._enter_task(self._loop, self._task)

    def __exit__(self, *error: object) -> None:
        asyncio._leave_task(self._loop, self._task)
        if self._before is not None:
            asyncio._enter_task(self._loop, self._before)


async def rest_of(steps: Iterator[Any], waits_for: Any) -> None:
    """Complete an awaitable whose first step was executed elsewhere.

    Args:
        steps: The rest of its steps.
        waits_for: The future that the first step waits for.
    """
    await _Rest(steps, waits_for)


class _Rest:
    """Yields the future of the first step once more, then delegates to the awaitable.

    Thus, cancelling the awaiting task cancels the awaitable. It delegates as ``yield from`` does
    (PEP 380): ``__await__`` returns an iterator, which need not have `send`, `throw` or `close`.
    Granian's has none of them.
    """

    __slots__ = ("_steps", "_waits_for")

    def __init__(self, steps: Iterator[Any], waits_for: Any) -> None:
        self._steps: Any = steps
        self._waits_for = [waits_for]

    def __await__(self) -> Generator[Any, Any, None]:
        return self

    def __iter__(self) -> _Rest:
        return self

    def __next__(self) -> Any:
        return self.send(None)

    def send(self, value: Any) -> Any:
        if self._waits_for:
            return self._waits_for.pop()
        return next(self._steps) if value is None else self._steps.send(value)

    def throw(self, *error: Any) -> Any:
        if not hasattr(self._steps, "throw"):
            raise error[0]
        return self._steps.throw(*error)

    def close(self) -> None:
        if hasattr(self._steps, "close"):
            self._steps.close()
