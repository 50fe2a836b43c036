"""The fallback `log`: a line in the worker's log, and that is all."""

from __future__ import annotations

import logging

from realtime.queued import Queued

logger = logging.getLogger(__name__)
SHOWN = 500  # characters of the data


def log(queued: Queued) -> None:
    """Write down what nobody heard: escaped, and not all of it if it is long."""
    text = ascii(queued.data)
    logger.info(
        "nobody heard %s on %s: %s",
        *(queued.id, queued.channel, text if len(text) <= SHOWN else f"{text[:SHOWN]}…"),
        extra={"id": queued.id, "channel": queued.channel},
    )
