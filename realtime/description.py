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

from realtime.hostcode import of_host
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
    asked = asyncio.wait_for(_described(user, describe), DESCRIBE_SECONDS)
    [text] = await asyncio.gather(asked, return_exceptions=True)
    if isinstance(text, BaseException):
        return _nothing(text)
    _outage.worked(time.monotonic())
    return text


async def _described(user: Any, describe: Describe) -> str:
    # Encoded here, where a language that the function has activated is still active.
    return encoded_info(await of_host(describe(user)))


def _nothing(error: BaseException) -> str:
    # Once, not for each client that comes back.
    if _outage.failed(time.monotonic()):
        logger.error("REALTIME_USER_INFO failed: nothing is shown of users", exc_info=error)
    return ""
