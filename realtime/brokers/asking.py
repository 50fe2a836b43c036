"""Asks several servers the same question at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

ANSWER_SECONDS = 0.5
"""How long servers may take to answer, of the second that a publish may take."""
LATECOMER_SECONDS = 0.02
"""How long the minority is waited for after the majority has answered. A server whose host is gone
does not answer, and each question would take as long as it may."""


async def ask_several(
    questions: Sequence[Coroutine[Any, Any, T | Exception]],
) -> tuple[list[T], list[Exception]]:
    """Return the answers that came in time, and the errors that came instead of others."""
    loop = asyncio.get_running_loop()
    asking = {loop.create_task(each) for each in questions}
    answers: list[T] = []
    errors: list[Exception] = []
    until = loop.time() + ANSWER_SECONDS
    try:
        while asking and (left := until - loop.time()) > 0:
            done, asking = await asyncio.wait(
                asking, timeout=left, return_when=asyncio.FIRST_COMPLETED
            )
            for said in [task.result() for task in done]:
                if isinstance(said, Exception):
                    errors.append(said)
                else:
                    answers.append(said)
            if 2 * len(answers) > len(questions):
                until = min(until, loop.time() + LATECOMER_SECONDS)
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    return answers, errors
