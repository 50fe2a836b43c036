"""Tokens by which a site vouches for a client's identity and its channels.

JSON Web Tokens (RFC 7519) with Centrifugo's claims (centrifugal.dev/docs/server/authentication and
.../channel_token_auth), so that code which issues tokens for Centrifugo works here too. Each key
has one algorithm, and a token is verified with the key that has its id (``kid``) or is for its
algorithm, so no key is ever used with another algorithm (RFC 8725 §3.1). No clock here: time is an
argument, in seconds since 1970.

The library verifies the signature alone (RFC 7515); the claims are checked here, so that a new
release of it cannot reject tokens that our documentation accepts (PyJWT 2.10 began to check ``jti``
and ``sub``). A null claim counts as absent, whichever it is. ``iat``, ``iss``, ``jti`` and unknown
claims are ignored: RFC 7519 §4.1.6 defines ``iat`` as the age of a token and no more, and a token
that must not be used yet says so by ``nbf``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from realtime.core.identity import SAME_USERS, USER_LIMIT, Grant, Identity, UserTable
from realtime.core.json_text import encode_json
from realtime.core.names import checked_channel, users_of
from realtime.errors import InvalidName, InvalidToken, RequestError, TokenExpired

if TYPE_CHECKING:
    from realtime.protocols import Subscription

TOKEN_CHARACTERS = 8 * 1024
INFO_BYTES = 4 * 1024
"""Size of compact JSON; it is sent with each publication of the client."""
CHANNELS_LIMIT = 32
MARK_LIMIT = 64
"""Maximum characters of ``session`` and ``stamp``: a SHA-256 in hex."""
LEEWAY_SECONDS = 5.0
"""Tolerated clock skew."""
EXPIRY = REQUIRED, OPTIONAL = ("required", "optional")
"""Whether a token must have an ``exp``."""
RSA_BITS = 2048  # RFC 7518 §3.3

_Made = TypeVar("_Made", Identity, Grant)

_SIGNATURE: Final = jwt.PyJWS()

Key = tuple[str, Any]
"""The one algorithm that a key is for, and the key: a secret for HS256, otherwise a public one."""


def key_of(pem: str) -> Key | None:
    """Parse a public key with its algorithm; None if it cannot be used for tokens."""
    try:
        return key_for_tokens(load_pem_public_key(pem.encode()))
    except (ValueError, UnsupportedAlgorithm):
        return None


def key_for_tokens(key: object) -> Key | None:
    """Return a public key with its algorithm; None if the algorithm is not supported."""
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= RSA_BITS:
        return "RS256", key
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return "ES256", key
    return None


class Tokens:
    """Verifies tokens; without a key it rejects all of them."""

    def __init__(
        self,
        keys: Mapping[str, Any],
        *,
        key_named: Callable[[str], Key | None] | None = None,
        audience: str = "",
        must_expire: bool = True,
        own_users: UserTable = SAME_USERS,
        refused: Callable[[InvalidToken], None] | None = None,
    ) -> None:
        """Set the keys.

        Args:
            keys: By algorithm: a secret for HS256, a public key (see `key_of`) for RS256 and ES256.
            key_named: Finds the key of a token that names one (``kid``); never for HS256.
            audience: Required among the token's ``aud``; empty requires none.
            must_expire: Reject tokens without ``exp``. Centrifugo accepts them, forever.
            own_users: Users of this project; if their ids have a prefix, no token may name them.
            refused: Called for each rejected token, but not for one that has expired.
        """
        self._keys = dict(keys)
        self._key_named = key_named
        self._audience = audience
        self._must_expire = must_expire
        self._own_users = own_users
        self._refused = refused

    def verify_identity(self, token: str, now: float) -> Identity:
        """Return the identity in a connection token.

        From its claims ``sub``, ``exp``, ``info``, ``channels``, ``session`` and ``stamp``.

        Raises:
            TokenExpired: It was valid once.
            InvalidToken: It was never valid, or is not valid yet.
        """
        return self._verify(_identity, token, now)

    def verify_grant(self, token: str, now: float) -> Grant:
        """Return the permission in a subscription token.

        From its claims ``sub``, ``channel``, ``exp`` and ``info``.

        Raises:
            TokenExpired: It was valid once.
            InvalidToken: It was never valid, or is not valid yet.
        """
        return self._verify(_grant, token, now)

    def verify_subscription(self, client: str, command: Subscription, now: float) -> Grant | None:
        """See `realtime.protocols.Credentials`; a token is valid for any connection."""
        return self.verify_grant(command.token, now) if command.token else None

    def _verify(
        self, make: Callable[[dict[str, Any], float | None], _Made], token: str, now: float
    ) -> _Made:
        try:
            found = make(*self._verify_claims(token, now))
            self._refuse_own_users(found)
            return found
        except InvalidToken as error:
            if self._refused is not None:
                self._refused(error)
            raise

    def _refuse_own_users(self, found: Identity | Grant) -> None:
        channels = found.channels if isinstance(found, Identity) else ()
        named = [found.user, *(user for each in channels for user in users_of(each) or ())]
        for user in filter(self._own_users.has, named):
            problem = "it names a user of the service's own table, who has a session instead"
            raise InvalidToken(problem, user)

    def _verify_claims(self, token: str, now: float) -> tuple[dict[str, Any], float | None]:
        """Return its claims and its expiry; None is never."""
        claims = self._verify_signature(token)
        expires, begins = _moment(claims.get("exp")), _moment(claims.get("nbf", now))
        if expires is None and ("exp" in claims or self._must_expire):
            problem = "is not a number of seconds" if "exp" in claims else "is missing"
            raise InvalidToken(f"its expiry (exp) {problem}", claims.get("sub"))
        if expires is not None and now > expires + LEEWAY_SECONDS:
            raise TokenExpired
        if begins is None or now < begins - LEEWAY_SECONDS:
            raise InvalidToken("it is not valid yet (nbf)", claims.get("sub"))
        if self._audience and self._audience not in _audiences(claims):
            raise InvalidToken("its audience (aud) is not this service", claims.get("aud"))
        return claims, expires

    def _verify_signature(self, token: str) -> dict[str, Any]:
        if len(token) > TOKEN_CHARACTERS:
            raise InvalidToken(f"it has more than {TOKEN_CHARACTERS} characters")
        try:
            header = jwt.get_unverified_header(token)
            if "crit" in header:  # RFC 7515 §4.1.11; older releases of PyJWT ignore it
                raise InvalidToken("its header has extensions that must be understood (crit)")
            algorithm, key = self._key(header)
            claims = json.loads(_SIGNATURE.decode(token, key, algorithms=[algorithm]))
        except jwt.InvalidSignatureError:
            raise InvalidToken("its signature does not match our key") from None
        except (jwt.PyJWTError, ValueError, RecursionError) as error:
            raise InvalidToken("it cannot be decoded", type(error).__name__) from None
        if not isinstance(claims, dict):
            raise InvalidToken("its claims are not an object")
        return {name: value for name, value in claims.items() if value is not None}

    def _key(self, header: Mapping[str, Any]) -> Key:
        """Return the key with which a token with this header must be verified."""
        algorithm, name = header.get("alg"), header.get("kid")
        if name is not None and self._key_named is not None and algorithm != "HS256":
            named = self._key_named(name)
            if named is None:
                raise InvalidToken("no configured key has its ID (kid)", name)
            if named[0] != algorithm:
                raise InvalidToken("its key (kid) is for another algorithm", name)
            return named
        if not isinstance(algorithm, str) or algorithm not in self._keys:
            raise InvalidToken("no key is configured for its algorithm (alg)", algorithm)
        return algorithm, self._keys[algorithm]


def encode_info(info: object) -> str:
    """Return what others see about a user, as compact JSON; empty for None.

    Raises:
        InvalidData: It is not JSON that every client can read.
        TooLarge: It has more than `INFO_BYTES`.
    """
    return "" if info is None else encode_json(info, "info", INFO_BYTES).decode()


def checked_channels(channels: object) -> tuple[str, ...]:
    """Return unique channel names; empty for None.

    Raises:
        InvalidName: A name is invalid, or this is not a list of at most `CHANNELS_LIMIT`.
    """
    if channels is None:
        return ()
    if not isinstance(channels, list | tuple) or len(channels) > CHANNELS_LIMIT:
        raise InvalidName("channels", channels, f"use a list of at most {CHANNELS_LIMIT} names")
    return tuple(dict.fromkeys(map(checked_channel, channels)))


def _identity(claims: dict[str, Any], expires: float | None) -> Identity:
    user = _user(claims)
    if "channel" in claims:  # else a permission for one channel would grant all the user's rights
        raise InvalidToken("it is a subscription token (channel)", user)
    try:
        info, channels = encode_info(claims.get("info")), checked_channels(claims.get("channels"))
    except RequestError as error:
        raise InvalidToken("its info or channels are invalid", str(error)) from None
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
        raise InvalidToken("it names no valid channel", claims.get("sub")) from None
    try:
        info = encode_info(claims.get("info"))
    except RequestError as error:
        raise InvalidToken("its info is invalid", str(error)) from None
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
    """Return seconds since 1970, if the value is a time; ``true`` and infinity are not."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e15:
        return None
    return float(value)


def _audiences(claims: Mapping[str, Any]) -> list[object]:
    given = claims.get("aud")
    return given if isinstance(given, list) else [given]
