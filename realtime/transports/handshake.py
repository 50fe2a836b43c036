"""Admits and identifies clients of every transport: connection limits and the session's user."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, TypeVar

from django.db import Error as DatabaseError

from realtime import wiring
from realtime.auth.sessions import session_identity
from realtime.auth.token_log import log_refused_token
from realtime.core.identity import ANONYMOUS, Identity
from realtime.core.limits import address_of
from realtime.core.tally import Tally
from realtime.errors import ConfigurationError, InvalidToken
from realtime.identity.url_secrets import has_secret

if TYPE_CHECKING:
    from realtime.delivery.hub import Hub
    from realtime.transports.callers import Caller

logger = logging.getLogger(__name__)
_failures = Tally()

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
_Answer = TypeVar("_Answer")

KEEPS_ITS_PLACE = object()
"""What `serve` returns if the connection goes on: `Connections.leave` is then called at its end."""


class NoRoom(Exception):
    """A limit rejects the connection."""

    def __init__(self, limit: str) -> None:
        """Name the limit that was reached: ``connections`` or ``connections_per_address``."""
        super().__init__(limit)
        self.limit = limit


class NotConfigured(Exception):
    """This node cannot run, because of a setting."""

    def __init__(self, error: ConfigurationError) -> None:
        """Keep the error that names the setting."""
        super().__init__(error)
        self.error = error


class SessionUnknown(Exception):
    """The user of the session could not be read from the database; the client may retry."""


async def let_in(
    scope: Scope, caller: Caller, serve: Callable[[Hub, Identity], Awaitable[_Answer]]
) -> _Answer:
    """Check the limits, identify the user, and serve the connection.

    Args:
        scope: The ASGI scope of the request.
        caller: The sender of the request.
        serve: Serves the connection until its end, or returns `KEEPS_ITS_PLACE`.

    Raises:
        NoRoom: A limit rejects the connection.
        NotConfigured: This node cannot run. The log names the setting.
        SessionUnknown: The user of the session could not be read.
    """
    try:
        hub = wiring.node().running_hub()
    except ConfigurationError as error:
        count = _failures.add("configuration", time.monotonic())
        if count is not None:  # every new connection fails like this
            logger.error("cannot serve clients: %s (%d so far)", error, count)
        raise NotConfigured(error) from error
    address = address_of(scope.get("client"))
    if (limit := hub.connections.enter(address)) is not None:
        raise NoRoom(limit)
    is_kept = False
    try:
        identity = await _identity_of(scope, caller)
        answer = await serve(hub, identity)
        is_kept = answer is KEEPS_ITS_PLACE
    finally:
        if not is_kept:
            hub.connections.leave(address)
    return answer


async def _identity_of(scope: Scope, caller: Caller) -> Identity:
    if not caller.is_own_page:
        return ANONYMOUS
    try:
        return await session_identity(scope, wiring.user_info(), wiring.user_table())
    except DatabaseError as error:
        count = _failures.add("database", time.monotonic())
        if count is not None:  # likewise
            logger.error(
                "cannot read the user of a session: %s (%d so far)", ascii(str(error))[:200], count
            )
        raise SessionUnknown from error


def has_secret_in_url(scope: Scope) -> bool:
    """Tell whether the URL contains a secret, and log that, without the secret."""
    if not has_secret(scope.get("query_string", b"").decode("latin-1")):
        return False
    log_refused_token(InvalidToken("it was sent in the URL"))
    return True


def header(scope: Scope, wanted: bytes) -> str:
    """Return the first value of a header; empty if it is missing."""
    for name, value in scope["headers"]:
        if name == wanted:
            return str(value.decode("latin-1"))
    return ""
