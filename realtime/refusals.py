"""Tells in the log why tokens were refused: each reason once a minute, with a count.

Who shows tokens that are not good may do so as often as he likes, and an operator whose site makes
wrong ones sees nothing but clients that stay away. The token itself is never logged: it may be good
elsewhere.
"""

from __future__ import annotations

import logging
import time

from realtime.errors import InvalidToken
from realtime.tally import Tally

logger = logging.getLogger(__name__)

_tally = Tally()


def told(error: InvalidToken) -> None:
    """Count a refusal, and log it if its reason has not been named for a minute."""
    count = _tally.add(error.reason, time.monotonic())
    if count is not None:
        logger.warning("refused a token: %s (%d so far)", error, count)
