"""The fallback `log`: writes one line to the worker's log."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from realtime.core.limits import Bucket, Rate
from realtime.core.tally import Tally

if TYPE_CHECKING:
    from realtime.core.fallback_entry import Queued

logger = logging.getLogger(__name__)
DATA_CHARACTERS = 500  # characters of the data
LINES = Rate(10, 100)
"""Ten batches of a hundred made a thousand lines; a publisher must not fill the disk (CWE-779)."""

_lines = Bucket(LINES)
_hidden = Tally()
_noting = threading.Lock()  # the worker calls `log` in several threads


def log(queued: Queued) -> None:
    """Log a queued publication: escaped, shortened and rate-limited."""
    now = time.monotonic()
    with _noting:
        is_shown = _lines.take(now)
        hidden = None if is_shown else _hidden.add("lines", now)
    if hidden is not None:
        logger.warning(
            "the fallback log exceeded its rate: %d publications not logged so far", hidden
        )
    if not is_shown:
        return
    text = ascii(queued.data)
    logger.info(
        "fallback log: publication %s on %s: %s",
        *(
            queued.id,
            queued.channel,
            text if len(text) <= DATA_CHARACTERS else f"{text[:DATA_CHARACTERS]}…",
        ),
        extra={"id": queued.id, "channel": queued.channel},
    )
