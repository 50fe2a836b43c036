"""Tokens and channels of users, for the pages and apps of a host project."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import jwt

from realtime import wiring
from realtime.auth.sessions import session_digest, stamp_of
from realtime.core import names
from realtime.core.names import checked_channel
from realtime.errors import ConfigurationError, InvalidData, InvalidName, TooLarge
from realtime.identity.ended_sessions import ENDED_SECONDS, TOKEN_SECONDS_LIMIT
from realtime.identity.tokens import TOKEN_CHARACTERS, checked_channels, encode_info

TOKEN_SECONDS = 600


def connection_token(
    user: Any,
    *,
    seconds: int = TOKEN_SECONDS,
    info: Any = None,
    channels: Sequence[str] = (),
    session: str = "",
) -> str:
    """Return a token with which a client identifies itself as this user.

    For pages on other hosts and for apps; on a page of the service's own host the session is
    enough.

    Args:
        user: A Django user, or a user id as a string.
        seconds: How long it is valid; then the client has to fetch another one.
        info: Any JSON value that others see when this client publishes, at most 4 KiB: a name, the
            URL of a picture. Nothing that others must not know.
        channels: At most 32 channels to which the server subscribes it, whatever its permissions.
        session: The key of the requesting session: when the session ends, the connection is closed
            and the token is rejected. Nodes remember that for an hour, so such a token cannot be
            valid for longer than 50 minutes.

    For a user object, the token also holds a hash of the current password: the connection ends when
    the password changes or the user is deactivated.

    Raises:
        InvalidName: A channel name is invalid, or there are too many.
        InvalidData: info cannot be encoded as JSON, or seconds exceed 3000 with a session.
        TooLarge: info has more than 4 KiB, or the whole token more than 8.
        ConfigurationError: REALTIME_TOKEN_SECRET is not set, or the user is one of this project and
            REALTIME_SESSION_USER_PREFIX keeps them out of tokens.
    """
    claims: dict[str, Any] = {"sub": _subject(user)}
    if text := encode_info(info):
        claims["info"] = json.loads(text)
    if served := checked_channels(channels):
        claims["channels"] = served
    if session:
        if seconds > TOKEN_SECONDS_LIMIT:
            raise InvalidData(
                f"must be at most {TOKEN_SECONDS_LIMIT} for a token with a session: nodes remember "
                f"for {ENDED_SECONDS:.0f} s which sessions have ended",
                field="seconds",
            )
        claims["session"] = session_digest(session)
    if not isinstance(user, str) and (stamp := stamp_of(user)):
        claims["stamp"] = stamp
    return _token(claims, seconds)


def personal_channel(user: Any) -> str:
    """Return the channel to which a user's clients are always subscribed, such as ``user:#42``.

    Any primary key has one: characters that are not valid in a channel name are escaped
    (docs/protocol.md#personal-channels).

    Args:
        user: A Django user, or a user id.

    Raises:
        InvalidName: The user is anonymous or not saved yet, or the id is too long for a channel
            name: 255 characters, of which each that is escaped takes 3 to 12.
        ConfigurationError: REALTIME_PERSONAL_CHANNEL is empty.
    """
    prefix, user_id = wiring.settings().personal_channel, id_of(user)
    if not prefix:
        raise ConfigurationError(
            "REALTIME_PERSONAL_CHANNEL", "is empty, so users have no personal channel"
        )
    channel = names.personal_channel(prefix, user_id)
    if channel is None:
        rule = (
            f"the channel of this user would have more than {names.CHANNEL_LIMIT} characters"
            if user_id
            else "a user who is anonymous or not saved yet has no channel"
        )
        raise InvalidName("channel", f"{prefix}{user_id}", rule)
    return channel


def subscription_token(
    user: Any, channel: str, *, seconds: int = TOKEN_SECONDS, info: Any = None
) -> str:
    """Return a token that lets this user's client subscribe to an otherwise closed channel.

    Args:
        user: A Django user, or a user id as a string; ``""`` for anonymous clients.
        channel: The channel's name.
        seconds: How long it is valid.
        info: What others on the channel see about the user: any JSON value of at most 4 KiB.

    Raises:
        InvalidName: The channel name is invalid.
        InvalidData: info cannot be encoded as JSON.
        TooLarge: info or the token is too large.
        ConfigurationError: REALTIME_TOKEN_SECRET is not set, or the user is one of this project and
            REALTIME_SESSION_USER_PREFIX keeps them out of tokens.
    """
    claims = {"sub": _subject(user), "channel": checked_channel(channel)}
    if text := encode_info(info):
        claims["info"] = json.loads(text)
    return _token(claims, seconds)


def _token(claims: dict[str, Any], seconds: int) -> str:
    secret, audience = wiring.settings().token_secret, wiring.settings().token_audience
    if not secret:
        raise ConfigurationError("REALTIME_TOKEN_SECRET", "is not set")
    if audience:  # nodes require it of all tokens
        claims = {**claims, "aud": audience}
    now = int(time.time())
    token = jwt.encode({**claims, "iat": now, "exp": now + seconds}, secret, "HS256")
    if len(token) > TOKEN_CHARACTERS:
        raise TooLarge("the token", len(token), TOKEN_CHARACTERS, unit="characters")
    return token


def id_of(user: Any) -> str:
    """Return the id by which nodes know a user; empty is anonymous.

    Args:
        user: A Django user, or an id as nodes know it: a token's ``sub``, for example.

    Raises:
        TypeError: It is neither.
    """
    if isinstance(user, str | int | UUID):
        return str(user)
    if not hasattr(user, "pk"):
        raise TypeError(f"a user or a user id is required, not {type(user).__name__}")
    return "" if user.pk is None else id_of_key(user.pk)  # 0 is a valid id


def id_of_key(key: object) -> str:
    """Return the id by which nodes know the user of this project with a primary key."""
    return wiring.user_table().id_of(str(key))


def _subject(user: Any) -> str:
    user_id = id_of(user)
    if wiring.user_table().has(user_id):
        raise ConfigurationError(
            "REALTIME_SESSION_USER_PREFIX",
            "is set, so tokens cannot be about users of this project: they have a session",
        )
    return user_id
