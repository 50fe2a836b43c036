"""Reads API keys from the configuration, where each is an entry of a list.

Error messages name the entry and the problem, never a value: it could be a secret in the wrong
place.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from realtime.api.channel_patterns import ONE, REST, Pattern, Patterns
from realtime.api.keys import BY_DEFAULT, KEY_METHODS, Key, Keys, master_key
from realtime.core.names import CHANNEL_LIMIT, checked_fallback
from realtime.errors import ConfigurationError, InvalidName

SETTING = "REALTIME_API_KEYS"
PATTERNS_LIMIT = 100  # of one key
RATES = (0.001, 1_000_000)
NAMED = 10  # names in a notice

_NAME = re.compile(r"[A-Za-z0-9_\-.]{1,64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SEGMENT = re.compile(r"[A-Za-z0-9_\-=@,.;#]*")  # of a channel's name, see `realtime.core.names`
_FIELDS = ("name", "sha256", "channels", "methods", "rate", "fallbacks")
_EMPTY = hashlib.sha256(b"").digest()


def keys_of(entries: object, *, and_one: str = "") -> Keys:
    """Read all keys of a configuration: a list of entries, or its JSON text.

    ``{"name": "shop", "sha256": "<hex>", "channels": ["orders:*"], "methods": ["publish"],
    "rate": 100, "fallbacks": ["email"]}``; only the first two are required. `methods` defaults to
    `BY_DEFAULT`, `fallbacks` to none.

    Args:
        entries: The configured value.
        and_one: The secret of an additional key that may do everything; empty adds none.

    Raises:
        ConfigurationError: An entry is invalid, or two have the same name or secret.
    """
    keys, flaws = read_keys(entries, and_one=and_one)
    if flaws:
        raise flaws[0]
    return keys


def read_keys(entries: object, *, and_one: str = "") -> tuple[Keys, list[ConfigurationError]]:
    """Return the usable keys of a configuration, and an error for each unusable entry.

    Two entries with the same name or secret are both refused: either could be the intended one.

    Args:
        entries: As for `keys_of`.
        and_one: As for `keys_of`. An entry that repeats this key is refused; the key stays.

    Raises:
        ConfigurationError: The configuration is not a list.
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
            problem = "another key has the same name"
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


def describe_unlisted(keys: Keys) -> str:
    """Return a warning that names keys whose entries omit a list; empty if there are none."""
    if not keys.unlisted:
        return ""
    some = ", ".join(keys.unlisted[:NAMED])
    more = len(keys.unlisted) - NAMED
    return (
        f"keys without `methods` may only {', '.join(BY_DEFAULT)}, and keys without `fallbacks` "
        f"may name no fallback; earlier versions allowed everything. Set both lists for: {some}"
        + (f" and {more} more" if more > 0 else "")
    )


def _from_json(text: str | bytes) -> object:
    try:
        return json.loads(text)
    except RecursionError:
        raise ConfigurationError(SETTING, "is nested too deeply") from None
    except UnicodeDecodeError:
        raise ConfigurationError(SETTING, "is not UTF-8") from None
    except ValueError as error:
        # Only the position: some messages of the parser quote the text, which may hold a secret.
        where = f": line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise ConfigurationError(SETTING, f"is not JSON{where}") from None


def _key(entry: Any, where: str) -> Key:
    if not isinstance(entry, dict):
        raise ConfigurationError(SETTING, f"{where}: must be an object with name and sha256")
    name = entry.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigurationError(
            SETTING, f"{where}: name must be 1 to 64 characters from A-Z a-z 0-9 _ - ."
        )
    where = f"{where} ({name})"
    if not entry.keys() <= set(_FIELDS):
        raise ConfigurationError(SETTING, f"{where}: unknown field; known: {', '.join(_FIELDS)}")
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
    if digest == _EMPTY:  # a request without a key would match it
        raise ConfigurationError(SETTING, f"{where}: sha256 is the hash of an empty secret")
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
        raise ConfigurationError(
            SETTING, f"{where}: ** is allowed only as the last segment of a pattern"
        )
    for segment in segments:
        if segment not in (ONE, REST) and not _SEGMENT.fullmatch(segment):
            raise ConfigurationError(
                SETTING,
                f"{where}: segments between : must be names, * for one segment, or ** for the rest",
            )
    return segments


def _methods(value: object, where: str) -> frozenset[str]:
    if value is None:
        return frozenset(BY_DEFAULT)
    if (
        not isinstance(value, (list, tuple))
        or not value
        or not all(m in KEY_METHODS for m in value)
    ):
        raise ConfigurationError(
            SETTING, f"{where}: methods must be a list of any of {', '.join(KEY_METHODS)}"
        )
    if set(value) == {"batch"}:
        raise ConfigurationError(
            SETTING, f"{where}: batch also requires the methods of its commands"
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
