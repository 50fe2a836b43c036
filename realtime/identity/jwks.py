"""A JSON Web Key Set (JWKS, RFC 7517), as identity providers publish it.

A token names its key (``kid``), and the key names the one algorithm that it is for (RFC 8725 §3.1).
Keys that could be used to *issue* tokens are an error, because every key in a set is public. Keys
that are not for signatures, or for an unknown algorithm, are skipped, as RFC 7517 §5 says:
providers list encryption keys next to signing keys. No file and no network here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jwt
import msgspec
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from realtime.errors import ConfigurationError
from realtime.identity.tokens import RSA_BITS, Key, key_for_tokens

SETTING = "REALTIME_TOKEN_JWKS"
KEYS_LIMIT = 32  # a provider has two or three: the next, the current, the previous
SET_BYTES = 64 * 1024
KID_LIMIT = 128
NO_KEY = f"contains no key for RS256 ({RSA_BITS} bits or more) or ES256 (P-256) signatures"

# RFC 7518 §6.2.2, §6.3.2 and §6.4.1: the members of private and symmetric keys.
_SECRET_PARTS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})


def keys_of_set(given: str | bytes | Mapping[str, Any]) -> dict[str, Key]:
    """Return the keys of a set by id.

    Args:
        given: The set, as JSON text or as the decoded object.

    Raises:
        ConfigurationError: It is not a key set, has a key that must not be in one, or has none that
            is usable. The message names the key and quotes nothing of it.
    """
    keys, flaws = read_set(given)
    if flaws:
        raise flaws[0]
    if not keys:
        raise _wrong(NO_KEY)
    return keys


def read_set(
    given: str | bytes | Mapping[str, Any],
) -> tuple[dict[str, Key], list[ConfigurationError]]:
    """Return the usable keys of a set by id, and the problem of each other key.

    An empty set is valid: its provider has withdrawn all keys.

    Raises:
        ConfigurationError: It is not a key set.
    """
    keys: dict[str, Key] = {}
    flaws: list[ConfigurationError] = []
    seen: set[str] = set()
    for place, entry in enumerate(_entries(given), 1):
        try:
            if not isinstance(entry, Mapping):
                raise _wrong(f"key {place} is not an object")
            name = _id(entry, place)
            if name in seen:
                keys.pop(name, None)  # duplicate id: which of the two is meant is unknown
                raise _wrong(f"two keys have the kid {name!a}")
            key = _key(entry, name)
        except ConfigurationError as error:
            flaws.append(error)
            continue
        if key is not None:
            seen.add(name)
            keys[name] = key
    return keys, flaws


def _entries(given: str | bytes | Mapping[str, Any]) -> list[Any]:
    if isinstance(given, str | bytes):
        if len(given) > SET_BYTES:
            raise _wrong(f"has more than {SET_BYTES} bytes")
        try:
            given = msgspec.json.decode(given)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            raise _wrong("is not JSON") from None
    entries = given.get("keys") if isinstance(given, Mapping) else None
    if not isinstance(entries, list | tuple):
        raise _wrong('must be a set of keys: {"keys": [{"kid": …, "kty": "RSA", …}]}')
    if len(entries) > KEYS_LIMIT:
        raise _wrong(f"has {len(entries)} keys; the limit is {KEYS_LIMIT}")
    return list(entries)


def _id(entry: Mapping[str, Any], place: int) -> str:
    name = entry.get("kid")
    if not isinstance(name, str) or not 1 <= len(name) <= KID_LIMIT:
        raise _wrong(f"key {place} has no kid (a string of 1 to {KID_LIMIT} characters)")
    return name


def _key(entry: Mapping[str, Any], name: str) -> Key | None:
    """Return a key, or None if it is not meant for us."""
    kind = entry.get("kty")
    if kind == "oct" or _SECRET_PARTS & entry.keys():
        raise _wrong(f"key {name!a} is not public: remove its private or secret parts")
    if kind not in ("RSA", "EC") or not _verifies(entry):
        return None
    try:
        public = (RSAAlgorithm if kind == "RSA" else ECAlgorithm).from_jwk(dict(entry))
    except (jwt.PyJWTError, ValueError, TypeError):
        raise _wrong(f"key {name!a} cannot be read") from None
    key = key_for_tokens(public)
    if key is None and kind == "RSA":
        raise _wrong(f"key {name!a} has fewer than {RSA_BITS} bits")
    return key if key is not None and entry.get("alg", key[0]) == key[0] else None


def _verifies(entry: Mapping[str, Any]) -> bool:
    """Return whether the key is for signatures (RFC 7517 §4.2, §4.3)."""
    operations = entry.get("key_ops", ["verify"])
    return entry.get("use", "sig") == "sig" and (
        isinstance(operations, list | tuple) and "verify" in operations
    )


def _wrong(problem: str) -> ConfigurationError:
    return ConfigurationError(SETTING, problem)
