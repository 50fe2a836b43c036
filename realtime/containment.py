"""Keeps errors of ours away from the host's own operation: a save, a log-out, a task.

What runs in there on the host's behalf logs what went wrong instead of raising it: the host has not
called us, and its data is worth more than our message.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from realtime.tally import Tally

logger = logging.getLogger(__name__)
_failures = Tally()


@contextmanager
def contain_errors(
    doing: str, consequence: str, *, but: tuple[type[Exception], ...] = ()
) -> Iterator[None]:
    """Log what is raised in the block, at most once a minute, and go on after it.

    Args:
        doing: What the block does, such as ``telling the nodes that a user was saved``.
        consequence: What it means where that fails.
        but: Is raised all the same: what the caller has an answer to, or what the host raises into
            us from outside.
    """
    try:
        yield
    except but:
        raise
    except Exception:  # the outermost rim: behind it is the host's operation
        count = _failures.add(doing, time.monotonic())
        if count is not None:
            logger.exception("%s failed (%d times so far): %s", doing, count, consequence)
