"""The numbers that clients see: close codes and error codes.

Both are Centrifugo's (centrifugal.dev/docs/server/codes), because the stock SDKs act on them; our
own errors count from 1000, as in the HTTP API. For a close code the range alone decides: below 3500
the client comes back, from 3500 it stays away. For an error, `temporary` makes an SDK try again
with back-off.
"""

from __future__ import annotations

from typing import NamedTuple


class Close(NamedTuple):
    """Why a connection ends; the reason has at most 123 bytes (RFC 6455 §5.5)."""

    code: int
    reason: str

    @property
    def reconnect(self) -> bool:
        """Whether a client that reads this code comes back."""
        return not 3500 <= self.code < 4000


SHUTDOWN = Close(3001, "shutdown")
SERVER_ERROR = Close(3004, "internal server error")
EXPIRED = Close(3005, "connection expired")
SLOW = Close(3008, "slow")
NO_PONG = Close(3012, "no pong")
TOO_MANY_REQUESTS = Close(3013, "too many requests")
INVALID_TOKEN = Close(3500, "invalid token")
BAD_REQUEST = Close(3501, "bad request")
STALE = Close(3502, "stale")
FORCE_DISCONNECT = Close(3503, "force disconnect")
CONNECTION_LIMIT = Close(3504, "connection limit")

CLOSES = (
    SHUTDOWN,
    SERVER_ERROR,
    EXPIRED,
    SLOW,
    NO_PONG,
    TOO_MANY_REQUESTS,
    INVALID_TOKEN,
    BAD_REQUEST,
    STALE,
    FORCE_DISCONNECT,
    CONNECTION_LIMIT,
)


class SubscriptionEnd(NamedTuple):
    """Why a subscription ends while the connection stays; from 2500 on clients subscribe again."""

    code: int
    reason: str


UNSUBSCRIBED = SubscriptionEnd(2000, "server unsubscribe")
NOT_SUBSCRIBED = SubscriptionEnd(2001, "permission denied")
"""Of a channel that a client named in its `connect`."""
SUBSCRIPTION_EXPIRED = SubscriptionEnd(2501, "expired")


class Refusal(NamedTuple):
    """Why a command was not done."""

    code: int
    message: str
    temporary: bool = False


INTERNAL_ERROR = Refusal(100, "internal error", temporary=True)
BUSY = Refusal(100, "the connection is congested", temporary=True)
NOT_LIVE = Refusal(100, "the broker is away", temporary=True)
NOT_PUBLISHED = Refusal(1001, "the broker is away: certainly not published", temporary=True)
UNKNOWN_OUTCOME = Refusal(1002, "the broker did not answer: perhaps published", temporary=True)
UNAUTHORIZED = Refusal(101, "unauthorized")
PERMISSION_DENIED = Refusal(103, "permission denied")
# Of a subscribe that still waits. Centrifugo has no number for it. The client must end up where an
# established subscription does, which gets a push with 2000 and is not asked for again; SDKs take
# any reply so that is neither temporary nor below 100 nor 109. 103 is the nearest in meaning: what
# the server ended, this command has no permission for any more.
ENDED_BY_SERVER = Refusal(103, "unsubscribed by the server")
METHOD_NOT_FOUND = Refusal(104, "method not found")
ALREADY_SUBSCRIBED = Refusal(105, "already subscribed")
LIMIT_EXCEEDED = Refusal(106, "limit exceeded")
BAD_COMMAND = Refusal(107, "bad request")
NOT_AVAILABLE = Refusal(108, "not available")
TOKEN_EXPIRED = Refusal(109, "token expired")
TOO_MANY_COMMANDS = Refusal(111, "too many requests", temporary=True)

REFUSALS = (
    INTERNAL_ERROR,
    BUSY,
    NOT_LIVE,
    NOT_PUBLISHED,
    UNKNOWN_OUTCOME,
    UNAUTHORIZED,
    PERMISSION_DENIED,
    ENDED_BY_SERVER,
    METHOD_NOT_FOUND,
    ALREADY_SUBSCRIBED,
    LIMIT_EXCEEDED,
    BAD_COMMAND,
    NOT_AVAILABLE,
    TOKEN_EXPIRED,
    TOO_MANY_COMMANDS,
)
