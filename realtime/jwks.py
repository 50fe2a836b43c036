"""A set of public keys as JSON (JWKS, RFC 7517), as identity providers publish it.

A token names its key (``kid``), and the key names the one algorithm that it is for (RFC 8725 §3.1).
What could be used to *make* tokens is refused: whoever writes it here has published it. What is not
for signatures, or for an algorithm that we do not know, is passed over, as RFC 7517 §5 says:
providers list keys for encryption beside those that sign. No file and no network here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jwt
import msgspec
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from realtime.errors import ConfigurationError
from realtime.tokens import RSA_BITS, Key, key_for_tokens

SETTING = "REALTIME_TOKEN_JWKS"
KEYS_LIMIT = 32  # a provider has two or three: the next, the current, the last
SET_BYTES = 64 * 1024
KID_LIMIT = 128
NO_KEY = f"has no key for signatures with RS256 ({RSA_BITS} bits or more) or ES256 (P-256)"

# RFC 7518 §6.2.2, §6.3.2 and §6.4.1: what a private or a symmetric key has.
_SECRET_PARTS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})


def keys_of_set(given: str | bytes | Mapping[str, Any]) -> dict[str, Key]:
    """Return the keys of a set by their ids.

    Args:
        given: The set, as JSON text or as what that stands for.

    Raises:
        ConfigurationError: It is no set, has a key that must not be in one, or none that we can
            use. Says which key, and nothing of what is in it.
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
    """Return the usable keys of a set by their ids, and what is wrong with each of the others.

    A set without keys is a set: its provider has withdrawn all of them.

    Raises:
        ConfigurationError: It is no set.
    """
    keys: dict[str, Key] = {}
    flaws: list[ConfigurationError] = []
    seen: set[str] = set()
    for place, entry in enumerate(_entries(given), 1):
        try:
            if not isinstance(entry, Mapping):
                raise _wrong(f"its key {place} is not an object")
            name = _id(entry, place)
            if name in seen:
                keys.pop(name, None)  # nobody can say which of the two is meant
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
        raise _wrong(f"has {len(entries)} keys, the limit is {KEYS_LIMIT}")
    return list(entries)


def _id(entry: Mapping[str, Any], place: int) -> str:
    name = entry.get("kid")
    if not isinstance(name, str) or not 1 <= len(name) <= KID_LIMIT:
        raise _wrong(f"its key {place} has no kid, a string of 1 to {KID_LIMIT} characters")
    return name


def _key(entry: Mapping[str, Any], name: str) -> Key | None:
    """Return a key, or None where it is not meant for us."""
    kind = entry.get("kty")
    if kind == "oct" or _SECRET_PARTS & entry.keys():
        raise _wrong(f"the key {name!a} is secret: only public keys may be here")
    if kind not in ("RSA", "EC") or not _verifies(entry):
        return None
    try:
        public = (RSAAlgorithm if kind == "RSA" else ECAlgorithm).from_jwk(dict(entry))
    except (jwt.PyJWTError, ValueError, TypeError):
        raise _wrong(f"the key {name!a} cannot be read") from None
    key = key_for_tokens(public)
    if key is None and kind == "RSA":
        raise _wrong(f"the key {name!a} has less than {RSA_BITS} bits")
    return key if key is not None and entry.get("alg", key[0]) == key[0] else None


def _verifies(entry: Mapping[str, Any]) -> bool:
    """Tell whether the key is for signatures (RFC 7517 §4.2, §4.3)."""
    operations = entry.get("key_ops", ["verify"])
    return entry.get("use", "sig") == "sig" and (
        isinstance(operations, list | tuple) and "verify" in operations
    )


def _wrong(problem: str) -> ConfigurationError:
    return ConfigurationError(SETTING, problem)
