"""The fleet goes on when the system refuses it a process."""

from __future__ import annotations

import asyncio
import errno
import os

import pytest

from notifier.fleet import Fleet
from notifier.listening import listening_socket


async def test_a_process_that_cannot_be_started_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A fork that failed (EAGAIN at a limit on processes) ended all healthy workers."""
    fleet = Fleet(1, listening_socket("127.0.0.1", 0), os.environ, linger=0)
    fleet.note_answer()
    attempts = 0

    async def refuse(*command: str, **options: object) -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 2:
            fleet.stop()
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(asyncio, "create_subprocess_exec", refuse)
    await fleet.keep()
    [told] = caplog.messages
    assert (
        told == f"a worker exited with code none, {os.strerror(errno.EAGAIN)}; restarting in 0.0 s"
    )
