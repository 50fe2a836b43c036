"""Log why tokens are rejected: each reason at most once a minute, with a count.

Clients can send invalid tokens at will, and without a log the operator of a site that issues bad
tokens sees nothing but missing clients. Tokens are never logged: they may be valid elsewhere.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from realtime.core.tally import Tally

if TYPE_CHECKING:
    from realtime.errors import InvalidToken

logger = logging.getLogger(__name__)

_tally = Tally()


def count_refused_tokens() -> dict[str, int]:
    """Return how many tokens were refused since the start of the process, by reason."""
    return _tally.totals()


def log_refused_token(error: InvalidToken) -> None:
    """Count a rejection, and log it if its reason was not logged within the last minute."""
    count = _tally.add(error.reason, time.monotonic())
    if count is not None:
        logger.warning("refused a token: %s (%d so far)", error, count)
