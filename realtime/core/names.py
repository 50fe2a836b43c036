"""Which names are valid, and what a channel's name means.

Channel `chat:lobby` is in the namespace `chat`; a channel without `:` is in the default namespace,
whose name is empty. `news#42` is for user 42 alone. The permitted characters are safe in log lines,
in Redis keys (no `{}` that would move the hash tag, no glob characters), and in Centrifugo's and
Pusher's own channel names.
"""

from __future__ import annotations

import re
from typing import NewType

from realtime.errors import InvalidName

ChannelName = NewType("ChannelName", str)
"""A valid channel name, as `checked_channel` returns it; mypy makes sure that it was checked."""

CHANNEL_LIMIT = 255  # characters; Centrifugo 255, Pusher 164-200
EVENT_LIMIT = 64
FALLBACK_LIMIT = 64
KEY_LIMIT = 64  # idempotency keys: a UUID has 36, a SHA-256 in hex 64

CHANNEL = re.compile(r"[A-Za-z0-9_\-=@,.;:#]+")
EVENT = re.compile(r"[A-Za-z0-9_\-.:]+")
_NAMESPACE = re.compile(r"[a-z0-9_\-]*")
KEY = re.compile(r"[!-~]+")
_PLAIN_ID = re.compile(r"[A-Za-z0-9_\-=@.;:#]+")  # a channel's characters without the comma
_NEEDS_ESCAPE = re.compile(r"[^A-Za-z0-9_\-@.;:#]")
_ESCAPE = re.compile(r"=([0-9A-F]{2})")


def checked_channel(value: object) -> ChannelName:
    """Return ``value`` as a valid channel name.

    Raises:
        InvalidName: It is not a string of 1 to 255 characters out of ``A-Z a-z 0-9 _ - = @ , . ; :
            #``.
    """
    alphabet = "A-Z a-z 0-9 _ - = @ , . ; : #"
    return ChannelName(_check("channel", value, CHANNEL, CHANNEL_LIMIT, alphabet))


def checked_event(value: object) -> str:
    """Return ``value`` as a valid event name, safe as an SSE field too (WHATWG HTML §9.2.6).

    Raises:
        InvalidName: It is not a string of 1 to 64 characters out of ``A-Z a-z 0-9 _ - . :``.
    """
    return _check("event", value, EVENT, EVENT_LIMIT, "A-Z a-z 0-9 _ - . :")


def checked_idempotency_key(value: object) -> str:
    """Return ``value`` as a valid idempotency key.

    Raises:
        InvalidName: It is not a string of 1 to 64 visible ASCII characters.
    """
    return _check("idempotency_key", value, KEY, KEY_LIMIT, "visible ASCII")


def checked_fallback(value: object) -> str:
    """Return ``value`` as a valid fallback name.

    Raises:
        InvalidName: It is not a string of 1 to 64 characters out of ``A-Z a-z 0-9 _ - . :``.
    """
    return _check("fallback", value, EVENT, FALLBACK_LIMIT, "A-Z a-z 0-9 _ - . :")


INTERNAL_PREFIX = "!"
"""The prefix of the nodes' own channels, which no client can name."""


def is_namespace(name: str) -> bool:
    """Return whether ``name`` is valid as the part of a channel before its first ``:``."""
    return _NAMESPACE.fullmatch(name) is not None


def namespace_of(channel: str) -> str:
    """Return the namespace of a channel: the part before the first ``:``, or the empty name."""
    head, colon, _ = channel.partition(":")
    return head if colon else ""


def users_of(channel: str) -> frozenset[str] | None:
    """Return the users after the ``#`` of a channel, who alone may use it; None without a ``#``.

    ``news#42`` is for user 42, ``talk#42,43`` for two (Centrifugo's user-limited channels). A part
    after an empty one is escaped as in `personal_channel`: ``talk#42,,a=2Bb`` is for 42 and a+b.
    """
    _, boundary, text = channel.partition("#")
    if not boundary:
        return None
    users, is_escaped = set(), False
    for part in text.split(","):
        if part:
            users.add(_unescape(part) if is_escaped else part)
        is_escaped = not part
    return frozenset(users)


def personal_channel(prefix: str, user: str) -> str | None:
    """Return the channel of one user, from which `users_of` returns the id.

    An id of ``A-Z a-z 0-9 _ - = @ . ; : #`` stands in it as it is. Any other follows a comma, and
    each byte of its UTF-8 that is none of these, or is ``=``, is written as ``=`` and two
    hexadecimal digits: ``user:#,a=2Bb`` for a+b. The comma keeps it apart from ids that need no
    escape: it separates users, so none of them contains it.

    Args:
        prefix: The part before the id: ``user:#`` for ``user:#42``, ``#`` for ``#42``.
        user: The id.

    Returns:
        None if the id is empty, or the channel would be too long.
    """
    channel = prefix + (user if _PLAIN_ID.fullmatch(user) else _escape(user))
    try:
        checked_channel(channel)
    except InvalidName:
        return None
    return channel if users_of(channel) == frozenset({user}) else None


def is_personal_prefix(text: str) -> bool:
    """Return whether ``text`` followed by a user's id is a channel for that user alone."""
    return text.endswith("#") and personal_channel(text, "42") is not None


def _escape(user: str) -> str:
    """Return an id in the form that follows a comma, with the comma."""
    raw = user.encode("utf-8", "surrogatepass").decode("latin-1")
    return "," + _NEEDS_ESCAPE.sub(lambda found: f"={ord(found[0]):02X}", raw)


def _unescape(part: str) -> str:
    """Return the id that `_escape` wrote; any other text is an id as it stands."""
    raw = _ESCAPE.sub(lambda found: chr(int(found[1], 16)), part)
    try:
        user = raw.encode("latin-1").decode("utf-8", "surrogatepass")
    except UnicodeError:
        return part
    return user if _escape(user) == f",{part}" else part


def _check(field: str, value: object, rule: re.Pattern[str], limit: int, alphabet: str) -> str:
    if isinstance(value, str) and len(value) <= limit and rule.fullmatch(value):
        return value
    raise InvalidName(field, value, f"use 1 to {limit} characters from {alphabet}")
