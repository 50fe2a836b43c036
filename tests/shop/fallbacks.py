"""The handlers that the host registers: some record what they received, some misbehave."""

from __future__ import annotations

import os
import time

from realtime import fallback
from realtime.core.fallback_entry import Queued
from realtime.errors import GiveUp


@fallback("ledger")
def write_down(queued: Queued) -> None:
    """Append the id to a file, in one write, so that lines of several processes do not mix."""
    note(queued)


@fallback("async-ledger")
async def write_down_async(queued: Queued) -> None:
    note(queued)


@fallback("refuse")
def refuse(queued: Queued) -> None:
    raise GiveUp("never")


@fallback("fail")
def fail(queued: Queued) -> None:
    raise ConnectionError("not now")


@fallback("hang")
def hang(queued: Queued) -> None:
    note(queued)
    while True:
        time.sleep(3600)


@fallback("die")
def die(queued: Queued) -> None:
    os._exit(9)


def note(queued: Queued) -> None:
    descriptor = os.open(os.environ["TEST_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{queued.id} {queued.attempt}\n".encode())
    os.close(descriptor)
