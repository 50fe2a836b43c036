"""The numbers that clients see: close codes and error codes.

Both are Centrifugo's (centrifugal.dev/docs/server/codes), because the stock SDKs act on them; our
own errors start at 1000, as in the HTTP API. For a close code the range alone decides whether a
client reconnects: it stays away after 3500 to 3999 and 4500 to 4999. For an error, `temporary`
makes an SDK retry with back-off.
"""

from __future__ import annotations

from typing import NamedTuple


class Close(NamedTuple):
    """Why a connection is closed; the reason has at most 123 bytes (RFC 6455 §5.5)."""

    code: int
    reason: str

    @property
    def reconnect(self) -> bool:
        """Whether a client that receives this code reconnects."""
        return not (3500 <= self.code < 4000 or 4500 <= self.code < 5000)


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
    """Why a subscription ends while its connection stays; clients resubscribe from 2500 on."""

    code: int
    reason: str
    because: str = ""
    """See `Refusal.because`."""


UNSUBSCRIBED = SubscriptionEnd(2000, "server unsubscribe")
NOT_SUBSCRIBED = SubscriptionEnd(2001, "permission denied")
"""For a channel that a client named in its `connect`."""
SUBSCRIBE_AGAIN = SubscriptionEnd(2500, "temporarily unavailable")
"""For such a channel, if the host could not be asked."""
SUBSCRIPTION_EXPIRED = SubscriptionEnd(2501, "expired")


class Refusal(NamedTuple):
    """Why a command was rejected."""

    code: int
    message: str
    temporary: bool = False
    because: str = ""
    """For the operator's log alone: it may tell which namespaces exist. One of a few fixed texts;
    empty if the log needs no line."""


INTERNAL_ERROR = Refusal(100, "internal error", temporary=True)
BUSY = Refusal(100, "the connection is congested", temporary=True)
NOT_LIVE = Refusal(100, "the broker is unavailable", temporary=True)
NOT_PUBLISHED = Refusal(1001, "the broker is unavailable, so nothing was published", temporary=True)
UNKNOWN_OUTCOME = Refusal(
    1002, "the broker did not respond, so the outcome is unknown", temporary=True
)
UNAUTHORIZED = Refusal(101, "unauthorized")
PERMISSION_DENIED = Refusal(103, "permission denied")
# The reply to a subscribe that is still pending; Centrifugo has no code for it. The client must end
# up as it would after losing an established subscription, where it gets a push with 2000 and does
# not resubscribe. SDKs treat any reply this way that is not temporary, not below 100 and not 109.
# 103 is the closest in meaning: the server ended this, so the command is no longer permitted.
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
