"""The identity of a client, as far as this service knows it."""

from __future__ import annotations

from typing import Any, NamedTuple

USER_LIMIT = 128  # characters of a user id


class Identity(NamedTuple):
    """A client's user, and how long that identity is valid."""

    user: str = ""
    """The user id that the site gave; empty is anonymous."""
    expires_at: float | None = None
    """When a new token is required, in seconds since 1970; None is never."""
    info: str = ""
    """What other clients see about it when it publishes, as compact JSON; empty is nothing."""
    channels: tuple[str, ...] = ()
    """Channels that the server subscribes it to."""
    session: str = ""
    """Identifies the login it came from, but is never its session key; empty if there is none."""
    stamp: str = ""
    """Changes with the user's credentials (a password); empty if the site gave none."""
    proof: Any = None
    """Lets the site recheck its login; opaque here, and never shown."""

    @property
    def is_anonymous(self) -> bool:
        """Whether the client has no user."""
        return not self.user

    @property
    def can_be_checked(self) -> bool:
        """Whether the site can check that it is still entitled to its connection."""
        return bool(self.stamp) or self.proof is not None

    def ttl_seconds(self, now: float) -> int | None:
        """Return how long the identity is valid; None is forever."""
        return _ttl_seconds(self.expires_at, now)


ANONYMOUS = Identity()


class UserTable(NamedTuple):
    """The user table of this project, which may be another one than that of its tokens' users.

    If it is, equal primary keys are different users: a prefix keeps their ids apart (ADR-0033).
    """

    prefix: str = ""
    """Begins the id of each user in the table; empty if tokens are about the same users."""

    def id_of(self, key: str) -> str:
        """Return the id by which nodes know the user with this primary key."""
        return f"{self.prefix}{key}"

    def key_of(self, user: str) -> str | None:
        """Return the primary key of the user with this id; None for a user of another table."""
        return user[len(self.prefix) :] if user.startswith(self.prefix) else None

    def has(self, user: str) -> bool:
        """Return whether an id belongs to this table alone, so that no token may claim it."""
        return bool(self.prefix) and user.startswith(self.prefix)


SAME_USERS = UserTable()
"""The table of a project whose tokens are about its own users."""


class Grant(NamedTuple):
    """A user's permission to subscribe to one channel."""

    channel: str
    user: str
    expires_at: float | None
    """Seconds since 1970; None is never."""
    info: str = ""
    """What others on the channel see about the user, as compact JSON; empty is nothing."""

    def ttl_seconds(self, now: float) -> int | None:
        """Return how long the grant is valid; None is forever."""
        return _ttl_seconds(self.expires_at, now)


def _ttl_seconds(expires_at: float | None, now: float) -> int | None:
    """Return whole seconds, at least one: clients set a timer with them."""
    return None if expires_at is None else max(1, int(expires_at - now))
