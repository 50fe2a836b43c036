"""Keeps our errors out of the host's own operations: a save, a log-out, a task.

Code that runs inside them logs its errors instead of raising them: the host did not call us, and
its data matters more than our message.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from realtime.core.tally import Tally

logger = logging.getLogger(__name__)
_failures = Tally()


@contextmanager
def contain_errors(
    doing: str, consequence: str, *, but: tuple[type[Exception], ...] = ()
) -> Iterator[None]:
    """Log an exception from the block, at most once a minute, and continue after the block.

    Args:
        doing: What the block does, such as ``telling the nodes that a user was saved``.
        consequence: The effect if it fails.
        but: Exceptions to raise anyway: those the caller handles, or those the host raises into us
            from outside.
    """
    try:
        yield
    except but:
        raise
    except Exception:  # the outermost boundary: beyond it is the host's operation
        count = _failures.add(doing, time.monotonic())
        if count is not None:
            logger.exception("%s failed (%d times so far): %s", doing, count, consequence)
