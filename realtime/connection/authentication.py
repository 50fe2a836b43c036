"""The authentication of one client: its identity, its tokens and their expiry."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import TYPE_CHECKING

from realtime.core.codes import PERMISSION_DENIED, TOKEN_EXPIRED, Refusal
from realtime.errors import InvalidToken, TokenExpired
from realtime.identity.tokens import LEEWAY_SECONDS

if TYPE_CHECKING:
    from realtime.core.identity import Grant, Identity
    from realtime.protocols import Credentials, Subscription


class Authentication:
    """See the module. Belongs to one `realtime.connection.client_state.ClientState`."""

    __slots__ = ("_client", "_credentials", "_ended_sessions", "identity", "wall_seconds")

    def __init__(
        self,
        client: str,
        credentials: Credentials,
        identity: Identity,
        wall_seconds: Callable[[], float],
        ended_sessions: Container[str],
    ) -> None:
        """Take the same arguments as `realtime.connection.client_state.ClientState`."""
        self._client = client
        self._credentials = credentials
        self._ended_sessions = ended_sessions
        self.identity = identity
        """The current identity of the client."""
        self.wall_seconds = wall_seconds
        """The clock of tokens."""

    def verify(self, token: str, now: float) -> Identity:
        """Return the identity in a connection token.

        Raises:
            TokenExpired: The token has expired, or its session has ended.
            InvalidToken: The token is invalid or not valid yet.
        """
        identity = self._credentials.verify_identity(token, now)
        if identity.session in self._ended_sessions:
            # Not `InvalidToken`: a well-behaved client then requests another token, and gets 403
            # after a log-out, or a token of the new login.
            raise TokenExpired
        return identity

    def grant_of(self, command: Subscription) -> Grant | Refusal | None:
        """Verify the token of a command and return its grant; None if it has no token."""
        try:
            return self._credentials.verify_subscription(self._client, command, self.wall_seconds())
        except TokenExpired:
            return TOKEN_EXPIRED
        except InvalidToken:
            return PERMISSION_DENIED

    def has_expired(self, grant: Grant) -> bool:
        """Tell whether a grant has expired."""
        expires_at = grant.expires_at
        return expires_at is not None and self.wall_seconds() > expires_at + LEEWAY_SECONDS

    def prolong(self, expire_at: float | None) -> int | None:
        """Set the expiry of the identity on behalf of the server; return the TTL in seconds."""
        self.identity = self.identity._replace(expires_at=expire_at)
        return self.identity.ttl_seconds(self.wall_seconds())
