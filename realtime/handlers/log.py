"""The fallback `log`: a line in the worker's log, and that is all."""

from __future__ import annotations

import logging
import threading
import time

from realtime.limits import Bucket, Rate
from realtime.queued import Queued
from realtime.tally import Tally

logger = logging.getLogger(__name__)
SHOWN = 500  # characters of the data
LINES = Rate(10, 100)
"""Ten batches of a hundred made a thousand lines; a publisher must not fill the disk (CWE-779)."""

_lines = Bucket(LINES)
_hidden = Tally()
_noting = threading.Lock()  # the worker calls it in threads


def log(queued: Queued) -> None:
    """Write down what nobody heard: escaped, not all of it if it is long, and not too often."""
    now = time.monotonic()
    with _noting:
        is_shown = _lines.take(now)
        hidden = None if is_shown else _hidden.add("lines", now)
    if hidden is not None:
        logger.warning("what nobody heard is more than is logged: %d not shown so far", hidden)
    if not is_shown:
        return
    text = ascii(queued.data)
    logger.info(
        "nobody heard %s on %s: %s",
        *(queued.id, queued.channel, text if len(text) <= SHOWN else f"{text[:SHOWN]}…"),
        extra={"id": queued.id, "channel": queued.channel},
    )
