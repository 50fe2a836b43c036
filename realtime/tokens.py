"""Tokens by which a site says who a client is, and what it may listen to.

JSON web tokens (RFC 7519) with Centrifugo's claims (centrifugal.dev/docs/server/authentication and
.../channel_token_auth), so that what makes tokens for it makes tokens for us. Each key has one
algorithm, and a token is checked with the key of the algorithm that it names, so no key is ever
used for another one (RFC 8725 §3.1). No clock here: time is an argument, in seconds since 1970.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from realtime.errors import InvalidName, InvalidToken, TokenExpired
from realtime.identity import USER_LIMIT, Grant, Identity
from realtime.names import checked_channel

TOKEN_CHARACTERS = 8 * 1024
LEEWAY_SECONDS = 5.0
"""By which clocks may differ."""
RSA_BITS = 2048  # RFC 7518 §3.3

_NOT_BY_THEIR_CLOCK: Final[Any] = {
    # PyJWT would look at the clock; the audience is ours to check, since it is optional.
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_aud": False,
}


def key_of(pem: str) -> tuple[str, Any] | None:
    """Return a public key and the one algorithm that it is for; None where it is no such key."""
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        return None
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= RSA_BITS:
        return "RS256", key
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return "ES256", key
    return None


class Tokens:
    """Checks tokens; without a key it refuses them all."""

    def __init__(self, keys: Mapping[str, Any], *, audience: str = "") -> None:
        """Take the keys.

        Args:
            keys: By algorithm: a secret for HS256, a public key (see `key_of`) for RS256 and ES256.
            audience: What must be among the token's ``aud``, if anything must.
        """
        self._keys = dict(keys)
        self._audience = audience

    def identity(self, token: str, now: float) -> Identity:
        """Return who shows this connection token: claims ``sub`` and ``exp``.

        Raises:
            TokenExpired: It was good once.
            InvalidToken: It never was, or is not yet.
        """
        claims, expires = self._claims(token, now)
        if (
            "channel" in claims
        ):  # or whoever may listen to one channel could do all that its user may
            raise InvalidToken("it is for a subscription (channel)")
        return Identity(_user(claims), expires)

    def grant(self, token: str, now: float) -> Grant:
        """Return what this subscription token allows: claims ``sub``, ``channel`` and ``exp``.

        Raises:
            TokenExpired: It was good once.
            InvalidToken: It never was, or is not yet.
        """
        claims, expires = self._claims(token, now)
        try:
            channel = checked_channel(claims.get("channel"))
        except InvalidName:
            raise InvalidToken("it names no channel") from None
        return Grant(channel, _user(claims), expires)

    def _claims(self, token: str, now: float) -> tuple[dict[str, Any], float]:
        """Return what it says, and until when."""
        claims = self._verified(token)
        expires, begins = _moment(claims.get("exp")), _moment(claims.get("nbf", now))
        if expires is None:
            raise InvalidToken("it says not when it expires (exp)")
        if now > expires + LEEWAY_SECONDS:
            raise TokenExpired
        if begins is None or now < begins - LEEWAY_SECONDS:
            raise InvalidToken("it is not valid yet (nbf)")
        if self._audience and self._audience not in _audiences(claims):
            raise InvalidToken("it is for another audience (aud)")
        return claims, expires

    def _verified(self, token: str) -> dict[str, Any]:
        if len(token) > TOKEN_CHARACTERS:
            raise InvalidToken(f"it has more than {TOKEN_CHARACTERS} characters")
        try:
            algorithm = jwt.get_unverified_header(token).get("alg")
            if not isinstance(algorithm, str) or (key := self._keys.get(algorithm)) is None:
                raise InvalidToken("there is no key for its algorithm")
            return jwt.decode(token, key, algorithms=[algorithm], options=_NOT_BY_THEIR_CLOCK)
        except (jwt.PyJWTError, ValueError, RecursionError) as error:
            raise InvalidToken(type(error).__name__) from None


def _user(claims: Mapping[str, Any]) -> str:
    user = claims.get("sub", "")
    if not isinstance(user, str) or len(user) > USER_LIMIT:
        raise InvalidToken(f"its user (sub) is not a string of at most {USER_LIMIT} characters")
    return user


def _moment(value: object) -> float | None:
    """Return seconds since 1970, if these are some; `true` and the end of all time are not."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e15:
        return None
    return float(value)


def _audiences(claims: Mapping[str, Any]) -> list[object]:
    given = claims.get("aud")
    return given if isinstance(given, list) else [given]
