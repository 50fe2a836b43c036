"""What names are legal, and what a channel's name says.

A channel `chat:lobby` is in the namespace `chat`; one without `:` is in the namespace with the
empty name, the default. `news#42` is for user 42 alone. The characters are those that are safe in a
log line, in a Redis key (no `{}` that would move the hash tag, no glob) and in Centrifugo's and
Pusher's own channel names.
"""

from __future__ import annotations

import re

from realtime.errors import InvalidName

CHANNEL_LIMIT = 255  # characters; Centrifugo 255, Pusher 164-200
EVENT_LIMIT = 64
FALLBACK_LIMIT = 64
KEY_LIMIT = 64  # idempotency keys: a UUID has 36, a SHA-256 in hex 64

CHANNEL = re.compile(r"[A-Za-z0-9_\-=@,.;:#]+")
EVENT = re.compile(r"[A-Za-z0-9_\-.:]+")
_NAMESPACE = re.compile(r"[a-z0-9_\-]*")
KEY = re.compile(r"[!-~]+")


def checked_channel(value: object) -> str:
    """Return ``value`` as a legal channel name.

    Raises:
        InvalidName: It is not a string of 1 to 255 characters out of ``A-Z a-z 0-9 _ - = @ , . ; :
            #``.
    """
    return _checked("channel", value, CHANNEL, CHANNEL_LIMIT, "A-Z a-z 0-9 _ - = @ , . ; : #")


def checked_event(value: object) -> str:
    """Return ``value`` as a legal event name, safe as an SSE field too (WHATWG HTML §9.2.6).

    Raises:
        InvalidName: It is not a string of 1 to 64 characters out of ``A-Z a-z 0-9 _ - . :``.
    """
    return _checked("event", value, EVENT, EVENT_LIMIT, "A-Z a-z 0-9 _ - . :")


def checked_idempotency_key(value: object) -> str:
    """Return ``value`` as a legal idempotency key.

    Raises:
        InvalidName: It is not a string of 1 to 64 visible ASCII characters.
    """
    return _checked("idempotency_key", value, KEY, KEY_LIMIT, "visible ASCII")


def checked_fallback(value: object) -> str:
    """Return ``value`` as the legal name of a fallback.

    Raises:
        InvalidName: It is not a string of 1 to 64 characters out of ``A-Z a-z 0-9 _ - . :``.
    """
    return _checked("fallback", value, EVENT, FALLBACK_LIMIT, "A-Z a-z 0-9 _ - . :")


def is_namespace(name: str) -> bool:
    """Tell whether ``name`` can be the part of a channel before its first ``:``."""
    return _NAMESPACE.fullmatch(name) is not None


def namespace_of(channel: str) -> str:
    """Return the namespace of a channel: what stands before the first ``:``, or the empty name."""
    head, colon, _ = channel.partition(":")
    return head if colon else ""


def users_of(channel: str) -> frozenset[str] | None:
    """Return the users behind the ``#`` of a channel, for whom alone it is; None where it has none.

    ``news#42`` is for user 42, ``talk#42,43`` for two (Centrifugo's user-limited channels).
    """
    _, boundary, users = channel.partition("#")
    return frozenset(filter(None, users.split(","))) if boundary else None


def personal_channel(prefix: str, user: str) -> str | None:
    """Return the channel of one user; None where their id cannot stand in a name.

    Args:
        prefix: What stands before the id: ``user:#`` for ``user:#42``, ``#`` for ``#42``.
        user: The id.
    """
    channel = f"{prefix}{user}"
    try:
        checked_channel(channel)
    except InvalidName:
        return None
    return channel if users_of(channel) == frozenset({user}) else None


def is_personal_prefix(text: str) -> bool:
    """Tell whether a user's id behind ``text`` makes a channel that is for this user alone."""
    return text.endswith("#") and personal_channel(text, "42") is not None


def _checked(field: str, value: object, rule: re.Pattern[str], limit: int, alphabet: str) -> str:
    if isinstance(value, str) and len(value) <= limit and rule.fullmatch(value):
        return value
    raise InvalidName(field, value, f"1 to {limit} characters out of {alphabet}")
