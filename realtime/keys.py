"""Who may use the HTTP API, and for what: the rules of API keys.

A key is known by the SHA-256 of its secret, so that nobody who reads the configuration can use it.
That is enough for a secret of 256 random bits; a password would need a slow hash. What goes wrong
here names the entry and the problem, never a value: somebody may have written a secret there.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from realtime.errors import ConfigurationError, InvalidName
from realtime.names import CHANNEL_LIMIT, checked_fallback

SETTING = "REALTIME_API_KEYS"
METHODS = (
    *("publish", "broadcast", "batch", "events"),
    *("disconnect", "subscribe", "unsubscribe", "refresh"),
    *("info", "channels", "presence", "presence_stats"),
)
BY_DEFAULT = ("publish", "broadcast", "batch")
"""What a key may do that lists no methods. Not `events`: attributes of an event choose its channel
and its fallback, and a gateway that has the key passes on events that others have made."""
PATTERNS_LIMIT = 100  # of one key
RATES = (0.001, 1_000_000)
NAMED = 10  # names in a notice
ONE, REST = "*", "**"

_NAME = re.compile(r"[A-Za-z0-9_\-.]{1,64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SEGMENT = re.compile(r"[A-Za-z0-9_\-=@,.;#]*")  # of a channel's name, see `realtime.names`
_FIELDS = ("name", "sha256", "channels", "methods", "rate", "fallbacks")
_NOTHING = hashlib.sha256(b"").digest()

Pattern = tuple[str, ...]
"""The segments of a pattern: what stands between its colons."""


class Patterns:
    """All patterns of a key, as one tree of segments.

    What patterns have in common is looked at once: `/api/channels` holds 10,000 names against them,
    and one after the other, a hundred patterns took the loop of a node for seconds.
    """

    __slots__ = ("_root",)

    def __init__(self, patterns: Iterable[Pattern]) -> None:
        self._root = _Place()
        for pattern in patterns:
            place = self._root
            for segment in pattern:
                if segment == REST:
                    place.is_open = True
                    break
                place = place.following.setdefault(segment, _Place())
            else:
                place.is_end = True

    def cover(self, channel: str) -> bool:
        """Tell whether one of the patterns stands for a channel."""
        places = [self._root]
        for segment in channel.split(":"):
            if any(place.is_open for place in places):
                return True
            following = [
                place.following[wanted]
                for place in places
                for wanted in (segment, ONE)
                if wanted in place.following
            ]
            if not following:
                return False
            places = following
        return any(place.is_end for place in places)


class _Place:
    """A place in some patterns: what may come next there."""

    __slots__ = ("following", "is_end", "is_open")

    def __init__(self) -> None:
        self.following: dict[str, _Place] = {}
        self.is_end = False
        self.is_open = False
        """Whether one or more segments may come here, whatever they are."""


@dataclass(frozen=True, slots=True)
class Key:
    """What one publisher may do. One that exists keeps the rules of `keys_of`."""

    name: str
    digest: bytes = field(repr=False)
    """SHA-256 of the secret."""
    channels: Patterns | None = None
    """None is all."""
    methods: frozenset[str] | None = frozenset(BY_DEFAULT)
    """Of the HTTP API; None is all, which no list can say."""
    rate: float | None = None
    """Publications a second, over all nodes; None is any number."""
    fallbacks: frozenset[str] | None = frozenset()
    """Which it may name; None is all. What a namespace names by itself is for all its keys."""
    holder: str = ""
    """Who has it, where that is not whoever the name names."""

    @property
    def scope(self) -> str:
        """Whose idempotency keys it uses.

        By the name, not the secret: a retry is still one when the secret was changed in between. No
        name has a colon in it, so none can be the scope of a holder, or of the site.
        """
        return self.holder or f"key:{self.name}"

    def may_use(self, method: str) -> bool:
        """Tell whether the key is good for a method of the API."""
        return self.methods is None or method in self.methods

    def may_fall_back(self, fallback: str) -> bool:
        """Tell whether the key may name a fallback, and say something to it."""
        return self.fallbacks is None or fallback in self.fallbacks

    def may_name(self, channel: str) -> bool:
        """Tell whether the key is good for a channel."""
        return self.channels is None or self.channels.cover(channel)


class Keys:
    """All keys of a service, found by their secrets."""

    def __init__(self, keys: Iterable[Key] = (), *, unlisted: Iterable[str] = ()) -> None:
        """Take the keys.

        Args:
            keys: All of them.
            unlisted: The names of those whose entries leave out `methods` or `fallbacks`.
        """
        self._by_digest = {key.digest: key for key in keys}
        self.unlisted = tuple(unlisted)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._by_digest)

    def find(self, secret: str) -> Key | None:
        """Return the key with this secret.

        One that is wrong costs the same work as one that is right. Whoever measures how far a
        digest was compared learns about a digest, and cannot go from there to a secret.
        """
        digest = digest_of(secret)
        key = self._by_digest.get(digest, _NOBODY)
        return key if hmac.compare_digest(digest, key.digest) else None


_NOBODY = Key("", bytes(32))


def digest_of(secret: str) -> bytes:
    """Return what a key is known by."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def master_key(secret: str) -> Key:
    """Return the key of a service that has one for everything (`REALTIME_API_KEY`)."""
    return Key("default", digest_of(secret), methods=None, fallbacks=None)


def keys_of(entries: object, *, and_one: str = "") -> Keys:
    """Read the configuration: a list of entries, or one as JSON text.

    ``{"name": "shop", "sha256": "<hex>", "channels": ["orders:*"], "methods": ["publish"],
    "rate": 100, "fallbacks": ["email"]}``; only the first two are necessary. Without `methods` the
    key has those of `BY_DEFAULT`, without `fallbacks` none.

    Args:
        entries: What was configured.
        and_one: The secret of a key beside them that may do everything; empty is none.

    Raises:
        ConfigurationError: An entry breaks a rule, or two have the same name or secret.
    """
    keys, flaws = read_keys(entries, and_one=and_one)
    if flaws:
        raise flaws[0]
    return keys


def read_keys(entries: object, *, and_one: str = "") -> tuple[Keys, list[ConfigurationError]]:
    """Return the usable keys of a configuration, and what is wrong with each of the others.

    Two entries with one name or one secret are both refused: nobody can say which one is meant.

    Args:
        entries: As for `keys_of`.
        and_one: As for `keys_of`; an entry that repeats this key is refused, not the key.

    Raises:
        ConfigurationError: It is not a list of entries at all.
    """
    if isinstance(entries, (str, bytes)):
        entries = _from_json(entries)
    if not isinstance(entries, (list, tuple)):
        raise ConfigurationError(SETTING, "must be a list of keys")
    master = [master_key(and_one)] if and_one else []
    by_name: dict[str, Key | None] = {key.name: None for key in master}  # None: refused
    by_digest: dict[bytes, Key | None] = {key.digest: None for key in master}
    unlisted, flaws = set(), []
    for number, entry in enumerate(entries, 1):
        try:
            key = _key(entry, f"key {number}")
        except ConfigurationError as error:
            flaws.append(error)
            continue
        problem = ""
        if key.name in by_name:
            problem = "the name is there twice"
        elif key.digest in by_digest:
            problem = "another key has the same secret"
        if problem:
            flaws.append(ConfigurationError(SETTING, f"key {number} ({key.name}): {problem}"))
            _refuse(by_name.get(key.name), by_name, by_digest)
            _refuse(by_digest.get(key.digest), by_name, by_digest)
            by_name[key.name] = by_digest[key.digest] = None
            continue
        by_name[key.name] = by_digest[key.digest] = key
        if entry.get("methods") is None or entry.get("fallbacks") is None:
            unlisted.add(key.name)
    keys = [key for key in by_name.values() if key is not None]
    names = (key.name for key in keys if key.name in unlisted)
    return Keys([*master, *keys], unlisted=names), flaws


def _refuse(
    key: Key | None, by_name: dict[str, Key | None], by_digest: dict[bytes, Key | None]
) -> None:
    if key is not None:
        by_name[key.name] = by_digest[key.digest] = None


def notice(keys: Keys) -> str:
    """Return what is to be said of keys that leave out lists; empty is nothing."""
    if not keys.unlisted:
        return ""
    some = ", ".join(keys.unlisted[:NAMED])
    more = len(keys.unlisted) - NAMED
    return (
        f"keys without `methods` may only {', '.join(BY_DEFAULT)}, and without `fallbacks` name no "
        f"fallback; they could do everything before. Write the lists to say what is meant: {some}"
        + (f" and {more} more" if more > 0 else "")
    )


def _from_json(text: str | bytes) -> object:
    try:
        return json.loads(text)
    except RecursionError:
        raise ConfigurationError(SETTING, "is nested too deep") from None
    except UnicodeDecodeError:
        raise ConfigurationError(SETTING, "is not UTF-8") from None
    except ValueError as error:
        # Only the place: some messages repeat what stands there.
        where = f": line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise ConfigurationError(SETTING, f"is not JSON{where}") from None


def _key(entry: Any, where: str) -> Key:
    if not isinstance(entry, dict):
        raise ConfigurationError(SETTING, f"{where}: must be an object with name and sha256")
    name = entry.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigurationError(
            SETTING, f"{where}: name must be 1 to 64 characters out of A-Z a-z 0-9 _ - ."
        )
    where = f"{where} ({name})"
    if not entry.keys() <= set(_FIELDS):
        raise ConfigurationError(
            SETTING, f"{where}: an unknown field; there are {', '.join(_FIELDS)}"
        )
    return Key(
        name,
        _digest(entry.get("sha256"), where),
        _channels(entry.get("channels"), where),
        _methods(entry.get("methods"), where),
        _rate(entry.get("rate"), where),
        _fallbacks(entry.get("fallbacks"), where),
    )


def _digest(value: object, where: str) -> bytes:
    if not isinstance(value, str) or not _DIGEST.fullmatch(value.lower()):
        raise ConfigurationError(
            SETTING, f"{where}: sha256 must be the SHA-256 of the secret, as 64 hex digits"
        )
    digest = bytes.fromhex(value)
    if digest == _NOTHING:  # or whoever shows no key at all would have this one
        raise ConfigurationError(SETTING, f"{where}: sha256 is that of an empty secret")
    return digest


def _channels(value: object, where: str) -> Patterns | None:
    if value is None:
        return None
    if not isinstance(value, (list, tuple)) or not value:
        raise ConfigurationError(SETTING, f"{where}: channels must be a list of patterns")
    if len(value) > PATTERNS_LIMIT:
        raise ConfigurationError(SETTING, f"{where}: more than {PATTERNS_LIMIT} channels")
    return Patterns(
        _pattern(pattern, f"{where}: channel {n}") for n, pattern in enumerate(value, 1)
    )


def _pattern(value: object, where: str) -> Pattern:
    if not isinstance(value, str) or not 1 <= len(value) <= CHANNEL_LIMIT:
        raise ConfigurationError(SETTING, f"{where} must have 1 to {CHANNEL_LIMIT} characters")
    segments = tuple(value.split(":"))
    if REST in segments[:-1]:
        raise ConfigurationError(SETTING, f"{where}: ** may only be the last part of a pattern")
    for segment in segments:
        if segment not in (ONE, REST) and not _SEGMENT.fullmatch(segment):
            raise ConfigurationError(
                SETTING,
                f"{where}: the parts between : are names, or * for one part, or ** for the rest",
            )
    return segments


def _methods(value: object, where: str) -> frozenset[str]:
    if value is None:
        return frozenset(BY_DEFAULT)
    if not isinstance(value, (list, tuple)) or not value or not all(m in METHODS for m in value):
        raise ConfigurationError(
            SETTING, f"{where}: methods must be a list out of {', '.join(METHODS)}"
        )
    if set(value) == {"batch"}:
        raise ConfigurationError(
            SETTING, f"{where}: in a batch it needs the methods of the commands, too"
        )
    return frozenset(value)


def _rate(value: object, where: str) -> float | None:
    if value is None:
        return None
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not RATES[0] <= value <= RATES[1]:  # type: ignore[operator]
        raise ConfigurationError(
            SETTING, f"{where}: rate must be a number from {RATES[0]} to {RATES[1]:.0f}"
        )
    return float(value)  # type: ignore[arg-type]


def _fallbacks(value: object, where: str) -> frozenset[str]:
    if value is None:
        return frozenset()
    try:
        if not isinstance(value, (list, tuple)) or len(value) > PATTERNS_LIMIT:
            raise InvalidName("fallbacks", value, "a list")
        return frozenset(map(checked_fallback, value))
    except InvalidName as error:
        raise ConfigurationError(
            SETTING, f"{where}: fallbacks must be a list of up to {PATTERNS_LIMIT} names"
        ) from error
