"""What others are shown of a user: the site's own words, by its function REALTIME_USER_INFO.

Asked once per connection or token. Where it fails, nothing is shown: a name that is missing hurts
less than a client that is kept out.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from realtime.errors import RealtimeError
from realtime.outage import Outage
from realtime.tokens import encoded_info

logger = logging.getLogger(__name__)

Describe = Callable[[Any], Awaitable[object]]
DESCRIBE_SECONDS = 5.0  # like an authorizer
_outage = Outage()


async def info_of(user: Any, describe: Describe | None) -> str:
    """Return what others are shown of a user, as compact JSON; empty is nothing.

    Args:
        user: Django's.
        describe: The site's function, made async; it may raise and return what it wants.
    """
    if describe is None:
        return ""
    asked = asyncio.wait_for(describe(user), DESCRIBE_SECONDS)
    [value] = await asyncio.gather(asked, return_exceptions=True)
    if isinstance(value, BaseException):
        return _nothing(value)
    try:
        text = encoded_info(value)
    except RealtimeError as error:
        return _nothing(error)
    _outage.worked(time.monotonic())
    return text


def _nothing(error: BaseException) -> str:
    # Once, not for each client that comes back.
    if _outage.failed(time.monotonic()):
        logger.error("REALTIME_USER_INFO failed: nothing is shown of users", exc_info=error)
    return ""
