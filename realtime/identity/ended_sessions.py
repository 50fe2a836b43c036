"""Recently ended sessions: tokens that were issued to one of them are rejected.

A connection token is self-contained, so logging out cannot change it: the verifier has to know of
the log-out (RFC 7009 §3). A node remembers digests of sessions, never their keys. No clock here:
time is an argument, in seconds.
"""

from __future__ import annotations

ENDED_SECONDS = 3600.0
"""How long a session is remembered. A token of `connection/token` is valid for 600 s, and Redis
keeps commands to nodes for an hour, so a node that has just started knows just as much."""
TOKEN_SECONDS_LIMIT = 3000
"""Maximum validity of a token with a session: ten minutes less, to allow for clock skew and for a
request that issues a token while its session ends."""
ENDED_LIMIT = 10_000
"""How many are remembered: 16 log-outs per second during the 600 s of a token, in 1.3 MB."""


class EndedSessions:
    """The ended sessions that one node remembers, oldest first."""

    def __init__(self, limit: int = ENDED_LIMIT, seconds: float = ENDED_SECONDS) -> None:
        """Start empty.

        Args:
            limit: Maximum number of sessions.
            seconds: How long each is remembered, unless the limit is reached earlier.
        """
        self._limit = limit
        self._seconds = seconds
        self._ended: dict[str, float] = {}

    def __contains__(self, session: object) -> bool:
        """Return whether a session is known to have ended."""
        return session in self._ended

    def __len__(self) -> int:
        """Return how many sessions are remembered."""
        return len(self._ended)

    def add(self, session: str, at: float) -> bool:
        """Remember an ended session; return False if an older one was evicted to make room.

        Args:
            session: Its digest.
            at: When it ended.
        """
        self._ended.setdefault(session, at)
        if len(self._ended) <= self._limit:
            return True
        del self._ended[next(iter(self._ended))]
        return False

    def forget_expired(self, now: float) -> None:
        """Forget sessions whose tokens have all expired."""
        while self._ended:
            session, at = next(iter(self._ended.items()))
            if now - at < self._seconds:
                return
            del self._ended[session]
