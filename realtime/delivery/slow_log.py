"""Logs that a function of the host is slow: each setting at most once a minute, with a count.

A slow authorizer delays every subscribe that it decides, and looks like a slow service.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from realtime.core.tally import Tally

logger = logging.getLogger(__name__)

SLOW_SECONDS = 1.0
"""A call that takes longer is slow, including the time that it waits for a thread."""

_tally = Tally()


@contextmanager
def timed_call(setting: str, about: str) -> Iterator[None]:
    """Time the call in this context, however it ends.

    Args:
        setting: The setting that names the function.
        about: An example for the log, such as the channel; a client may have chosen it.
    """
    loop_time = asyncio.get_running_loop().time
    began = loop_time()
    try:
        yield
    finally:
        ended = loop_time()
        if ended - began > SLOW_SECONDS and (count := _tally.add(setting, ended)) is not None:
            logger.warning(
                "%s is slow: it took %.1f s for %s (%d calls of more than %g s so far)",
                *(setting, ended - began, ascii(about)[1:-1][:100], count, SLOW_SECONDS),
                extra={"setting": setting, "slow_calls": count},
            )
