"""What other clients see about a user: the result of the site's function REALTIME_USER_INFO.

Called once per connection or token. If it fails, nothing is shown: a missing name hurts less than a
client that cannot connect.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from realtime.connection.hostcode import of_host
from realtime.core.outage import Outage
from realtime.identity.tokens import encode_info

logger = logging.getLogger(__name__)

Describe = Callable[[Any], Awaitable[object]]
DESCRIBE_SECONDS = 5.0  # as for an authorizer
_outage = Outage()


async def info_of(user: Any, describe: Describe | None) -> str:
    """Return what other clients see about a user, as compact JSON; empty is nothing.

    Args:
        user: Django's user.
        describe: The site's function, made async; it may raise and return anything.
    """
    if describe is None:
        return ""
    asked = asyncio.wait_for(_describe(user, describe), DESCRIBE_SECONDS)
    [text] = await asyncio.gather(asked, return_exceptions=True)
    if isinstance(text, BaseException):
        return _log_failure(text)
    _outage.note_success(time.monotonic())
    return text


async def _describe(user: Any, describe: Describe) -> str:
    # Encoded here, where a language that the function activated is still active.
    return encode_info(await of_host(describe(user)))


def _log_failure(error: BaseException) -> str:
    # Once per outage, not for each client that reconnects.
    if _outage.note_failure(time.monotonic()):
        logger.error("REALTIME_USER_INFO failed: users are shown without info", exc_info=error)
    return ""
