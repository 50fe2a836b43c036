"""Tokens by which a site says who a client is, and what it may listen to.

JSON web tokens (RFC 7519) with Centrifugo's claims (centrifugal.dev/docs/server/authentication and
.../channel_token_auth), so that what makes tokens for it makes tokens for us. Each key has one
algorithm, and a token is checked with the key that has its id (``kid``) or is for its algorithm, so
no key is ever used for another one (RFC 8725 §3.1). No clock here: time is an argument, in seconds
since 1970.

The library checks the signature alone (RFC 7515); the claims are judged here, so that a new release
of it cannot refuse tokens that our documentation accepts (PyJWT 2.10 began to look at ``jti`` and
``sub``). A claim that is null counts as absent, whichever it is. ``iat``, ``iss``, ``jti`` and the
claims that we do not know are not looked at: RFC 7519 §4.1.6 lets ``iat`` tell a token's age and no
more, and a token that must not be used yet says so by ``nbf``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from realtime.errors import InvalidName, InvalidToken, RequestError, TokenExpired
from realtime.identity import USER_LIMIT, Grant, Identity
from realtime.names import checked_channel
from realtime.publication import encoded

TOKEN_CHARACTERS = 8 * 1024
INFO_BYTES = 4 * 1024
"""Of compact JSON: it goes out with each publication of its client."""
CHANNELS_LIMIT = 32
MARK_LIMIT = 64
"""Characters of ``session`` and ``stamp``: a SHA-256 in hex."""
LEEWAY_SECONDS = 5.0
"""By which clocks may differ."""
EXPIRY = REQUIRED, OPTIONAL = ("required", "optional")
"""What may be asked of a token's ``exp``."""
RSA_BITS = 2048  # RFC 7518 §3.3

_Made = TypeVar("_Made", Identity, Grant)

_SIGNATURE: Final = jwt.PyJWS()

Key = tuple[str, Any]
"""The one algorithm that a key is for, and the key: a secret for HS256, else a public one."""


def key_of(pem: str) -> Key | None:
    """Return a public key and what it is for; None where it is none for tokens."""
    try:
        return key_for_tokens(load_pem_public_key(pem.encode()))
    except (ValueError, UnsupportedAlgorithm):
        return None


def key_for_tokens(key: object) -> Key | None:
    """Return a public key with the algorithm that it is for; None where there is none of ours."""
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= RSA_BITS:
        return "RS256", key
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return "ES256", key
    return None


class Tokens:
    """Checks tokens; without a key it refuses them all."""

    def __init__(
        self,
        keys: Mapping[str, Any],
        *,
        key_named: Callable[[str], Key | None] | None = None,
        audience: str = "",
        must_expire: bool = True,
        refused: Callable[[InvalidToken], None] | None = None,
    ) -> None:
        """Take the keys.

        Args:
            keys: By algorithm: a secret for HS256, a public key (see `key_of`) for RS256 and ES256.
            key_named: Finds the key for a token that names one (``kid``); HS256 has no such keys.
            audience: What must be among the token's ``aud``, if anything must.
            must_expire: Refuse tokens without ``exp``. Centrifugo accepts them, for ever.
            refused: Told about each token that is refused; one that has expired is not.
        """
        self._keys = dict(keys)
        self._key_named = key_named
        self._audience = audience
        self._must_expire = must_expire
        self._refused = refused

    def identity(self, token: str, now: float) -> Identity:
        """Return who shows this connection token.

        By its claims ``sub``, ``exp``, ``info``, ``channels``, ``session`` and ``stamp``.

        Raises:
            TokenExpired: It was good once.
            InvalidToken: It never was, or is not yet.
        """
        return self._told(_identity, token, now)

    def grant(self, token: str, now: float) -> Grant:
        """Return what this subscription token allows.

        By its claims ``sub``, ``channel``, ``exp`` and ``info``.

        Raises:
            TokenExpired: It was good once.
            InvalidToken: It never was, or is not yet.
        """
        return self._told(_grant, token, now)

    def _told(
        self, made: Callable[[dict[str, Any], float | None], _Made], token: str, now: float
    ) -> _Made:
        try:
            return made(*self._claims(token, now))
        except InvalidToken as error:
            if self._refused is not None:
                self._refused(error)
            raise

    def _claims(self, token: str, now: float) -> tuple[dict[str, Any], float | None]:
        """Return its claims, and until when they hold; None is for ever."""
        claims = self._verified(token)
        expires, begins = _moment(claims.get("exp")), _moment(claims.get("nbf", now))
        if expires is None and ("exp" in claims or self._must_expire):
            problem = "is not a number of seconds" if "exp" in claims else "is missing"
            raise InvalidToken(f"its expiry (exp) {problem}", claims.get("sub"))
        if expires is not None and now > expires + LEEWAY_SECONDS:
            raise TokenExpired
        if begins is None or now < begins - LEEWAY_SECONDS:
            raise InvalidToken("it is not valid yet (nbf)", claims.get("sub"))
        if self._audience and self._audience not in _audiences(claims):
            raise InvalidToken("it is for another audience (aud)", claims.get("aud"))
        return claims, expires

    def _verified(self, token: str) -> dict[str, Any]:
        if len(token) > TOKEN_CHARACTERS:
            raise InvalidToken(f"it has more than {TOKEN_CHARACTERS} characters")
        try:
            algorithm, key = self._key(jwt.get_unverified_header(token))
            claims = json.loads(_SIGNATURE.decode(token, key, algorithms=[algorithm]))
        except jwt.InvalidSignatureError:
            raise InvalidToken("its signature is not by our key") from None
        except (jwt.PyJWTError, ValueError, RecursionError) as error:
            raise InvalidToken("it cannot be read", type(error).__name__) from None
        if not isinstance(claims, dict):
            raise InvalidToken("its claims are not an object")
        return {name: value for name, value in claims.items() if value is not None}

    def _key(self, header: Mapping[str, Any]) -> Key:
        """Return the key that the token is to be checked with, whatever it says of itself."""
        algorithm, name = header.get("alg"), header.get("kid")
        if name is not None and self._key_named is not None and algorithm != "HS256":
            named = self._key_named(name)
            if named is None:
                raise InvalidToken("no key of ours has its id (kid)", name)
            if named[0] != algorithm:
                raise InvalidToken("its key (kid) is for another algorithm", name)
            return named
        if not isinstance(algorithm, str) or algorithm not in self._keys:
            raise InvalidToken("there is no key for its algorithm (alg)", algorithm)
        return algorithm, self._keys[algorithm]


def encoded_info(info: object) -> str:
    """Return what others are shown about a user as compact JSON; empty where it is None.

    Raises:
        InvalidData: It is no JSON that everybody can read.
        TooLarge: It has more than `INFO_BYTES`.
    """
    return "" if info is None else encoded(info, "info", INFO_BYTES).decode()


def checked_channels(channels: object) -> tuple[str, ...]:
    """Return names of channels, each once; none where it is None.

    Raises:
        InvalidName: One is no channel's name, or they are not a list of at most `CHANNELS_LIMIT`.
    """
    if channels is None:
        return ()
    if not isinstance(channels, list | tuple) or len(channels) > CHANNELS_LIMIT:
        raise InvalidName("channels", channels, f"a list of at most {CHANNELS_LIMIT} is meant")
    return tuple(dict.fromkeys(map(checked_channel, channels)))


def _identity(claims: dict[str, Any], expires: float | None) -> Identity:
    user = _user(claims)
    if "channel" in claims:  # or whoever may listen to one channel could do all that its user may
        raise InvalidToken("it is for a subscription (channel)", user)
    try:
        info, channels = encoded_info(claims.get("info")), checked_channels(claims.get("channels"))
    except RequestError as error:
        raise InvalidToken("its info or channels are not what they must be", str(error)) from None
    return Identity(
        user,
        expires,
        info=info,
        channels=channels,
        session=_mark(claims, "session"),
        stamp=_mark(claims, "stamp"),
    )


def _grant(claims: dict[str, Any], expires: float | None) -> Grant:
    try:
        channel = checked_channel(claims.get("channel"))
    except InvalidName:
        raise InvalidToken("it names no channel", claims.get("sub")) from None
    try:
        info = encoded_info(claims.get("info"))
    except RequestError as error:
        raise InvalidToken("its info is not what it must be", str(error)) from None
    return Grant(channel, _user(claims), expires, info)


def _user(claims: Mapping[str, Any]) -> str:
    user = claims.get("sub", "")
    if not isinstance(user, str) or len(user) > USER_LIMIT:
        raise InvalidToken(
            f"its user (sub) is not a string of at most {USER_LIMIT} characters", user
        )
    return user


def _mark(claims: Mapping[str, Any], name: str) -> str:
    mark = claims.get(name)
    if mark is None:
        return ""
    if not isinstance(mark, str) or len(mark) > MARK_LIMIT:
        raise InvalidToken(
            f"its {name} is not a string of at most {MARK_LIMIT} characters", claims.get("sub")
        )
    return mark


def _moment(value: object) -> float | None:
    """Return seconds since 1970, if these are some; `true` and the end of all time are not."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e15:
        return None
    return float(value)


def _audiences(claims: Mapping[str, Any]) -> list[object]:
    given = claims.get("aud")
    return given if isinstance(given, list) else [given]
