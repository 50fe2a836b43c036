"""Log why subscribes are refused: each reason at most once a minute, with a count.

The client learns only "permission denied", because more would tell a stranger which namespaces
exist. Without a log, a page with a misspelt channel would say "live" and receive nothing, and
nobody would know why.
"""

from __future__ import annotations

import asyncio
import logging

from realtime.core.tally import Tally

logger = logging.getLogger(__name__)

_tally = Tally()


def log_refusal(channel: str, because: str) -> None:
    """Count a refusal, and log it if its reason was not logged within the last minute.

    Args:
        channel: The channel that was asked for, as the client named it.
        because: `realtime.core.codes.Refusal.because`; nothing is logged if it is empty.
    """
    if not because:
        return
    loop = asyncio.get_running_loop()
    count = _tally.add(because, loop.time())
    if count is not None:
        # After the reply is written: the time that it takes must not tell the client the reason.
        loop.call_soon(_log, ascii(channel)[:100], because, count)


def _log(channel: str, because: str, count: int) -> None:
    logger.warning("refused a subscription to %s: %s (%d so far)", channel, because, count)
