"""Who a client is, as far as this service knows."""

from __future__ import annotations

from typing import Any, NamedTuple

USER_LIMIT = 128  # characters of a user's id


class Identity(NamedTuple):
    """A client's user, and until when that is known."""

    user: str = ""
    """The id that the site gave; empty is nobody."""
    expires_at: float | None = None
    """Seconds since 1970 at which it has to be shown anew; None is never."""
    info: str = ""
    """What others are shown about it when it publishes, as compact JSON; empty is nothing."""
    channels: tuple[str, ...] = ()
    """Channels that it listens to by itself."""
    session: str = ""
    """Names the login that it came from, never its key; empty where there is none."""
    stamp: str = ""
    """Changes with the user's credentials (a password); empty where the site told none."""
    proof: Any = None
    """By what the site can look at its login again; opaque here, and never shown."""

    @property
    def is_anonymous(self) -> bool:
        """Whether nobody said who this is."""
        return not self.user

    @property
    def can_be_checked(self) -> bool:
        """Whether the site can tell that it is still entitled."""
        return bool(self.stamp) or self.proof is not None

    def ttl_seconds(self, now: float) -> int | None:
        """Return for how long it is known; None is for ever."""
        return _ttl_seconds(self.expires_at, now)


ANONYMOUS = Identity()


class Grant(NamedTuple):
    """A permission to listen to one channel, for one user."""

    channel: str
    user: str
    expires_at: float | None
    """Seconds since 1970; None is never."""
    info: str = ""
    """What others on the channel are shown of the user, as compact JSON; empty is nothing."""

    def ttl_seconds(self, now: float) -> int | None:
        """Return for how long it holds; None is for ever."""
        return _ttl_seconds(self.expires_at, now)


def _ttl_seconds(expires_at: float | None, now: float) -> int | None:
    """Return whole seconds, at least one: clients start a timer with them."""
    return None if expires_at is None else max(1, int(expires_at - now))
