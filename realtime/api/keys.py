"""API keys: what each one permits, and how a key is found by its secret.

A key is stored as the SHA-256 of its secret, so reading the configuration is not enough to use it.
A fast hash is enough for a secret of 256 random bits; a password would need a slow one.
`realtime.api.key_entries` makes keys from the configuration.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from realtime.api.channel_patterns import Patterns

KEY_METHODS = (
    *("publish", "broadcast", "batch", "events"),
    *("disconnect", "block_user", "unblock_user", "subscribe", "unsubscribe", "refresh"),
    *("info", "channels", "connections", "position", "presence", "presence_stats"),
)
NO_KEY = "the header X-API-Key is missing or wrong"
BY_DEFAULT = ("publish", "broadcast", "batch")
"""Methods of a key that lists none. Without `events`: the attributes of an event choose its channel
and its fallback, and a gateway that has the key forwards events that others have made."""

POSITION = "position"
_WITH_POSITION = frozenset({"publish", "broadcast", "events", "subscribe"})
"""Methods that include `position`: a publisher reads the position in each receipt, and a subscriber
in the reply."""


@dataclass(frozen=True, slots=True)
class Key:
    """An API key: the digest of its secret, and what its holder may do."""

    name: str
    digest: bytes = field(repr=False)
    """SHA-256 of the secret."""
    channels: Patterns | None = None
    """None allows all."""
    methods: frozenset[str] | None = frozenset(BY_DEFAULT)
    """Of the HTTP API; None allows all, also those of later versions. No entry can say None."""
    rate: float | None = None
    """Publications per second across all nodes; None is no limit."""
    fallbacks: frozenset[str] | None = frozenset()
    """Fallbacks it may name; None allows all. The fallback of a namespace applies to every key."""
    holder: str = ""
    """The scope, for keys whose name does not identify their user."""

    @property
    def scope(self) -> str:
        """The scope of its idempotency keys.

        It is made of the name, not of the secret, so that a retry is recognised even when the
        secret was rotated in between. A name has no colon, so it cannot forge the scope of a holder
        or of the site.
        """
        return self.holder or f"key:{self.name}"

    def may_use(self, method: str) -> bool:
        """Tell whether the key may call a method of the API."""
        if self.methods is None or method in self.methods:
            return True
        return method == POSITION and not self.methods.isdisjoint(_WITH_POSITION)

    def may_fall_back(self, fallback: str) -> bool:
        """Tell whether the key may name a fallback, and pass parameters to it."""
        return self.fallbacks is None or fallback in self.fallbacks

    def may_name(self, channel: str) -> bool:
        """Tell whether the key may use a channel."""
        return self.channels is None or self.channels.match(channel)


class Keys:
    """All keys of a service, found by their secrets."""

    def __init__(self, keys: Iterable[Key] = (), *, unlisted: Iterable[str] = ()) -> None:
        """Take the keys.

        Args:
            keys: All of them.
            unlisted: The names of keys whose entries omit `methods` or `fallbacks`.
        """
        self._by_digest = {key.digest: key for key in keys}
        self.unlisted = tuple(unlisted)

    def __len__(self) -> int:
        """Return the number of keys."""
        return len(self._by_digest)

    def __iter__(self) -> Iterator[Key]:
        """Yield each key."""
        return iter(self._by_digest.values())

    def current(self) -> Keys:
        """Return these keys: unlike those of a file, they do not change."""
        return self

    def find(self, secret: str) -> Key | None:
        """Return the key with this secret.

        A wrong secret costs the same work as a right one. Timing the dictionary's comparison could
        at most reveal part of a digest, which does not lead to a secret.
        """
        digest = digest_of(secret)
        key = self._by_digest.get(digest, _NOBODY)
        return key if hmac.compare_digest(digest, key.digest) else None


_NOBODY = Key("", bytes(32))


def digest_of(secret: str) -> bytes:
    """Return the digest by which a key is stored and found."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def master_key(secret: str) -> Key:
    """Return the key that may do everything (`REALTIME_API_KEY`)."""
    return Key("default", digest_of(secret), methods=None, fallbacks=None)
