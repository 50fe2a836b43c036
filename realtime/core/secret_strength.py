"""Tells random secrets from those that a person has made up, which can be guessed."""

from __future__ import annotations

import math

GUESS_BITS = 96
"""Random secrets have 128 bits in 32 hex digits or 22 characters; invented ones have 30 to 80."""
ADVICE = "python -c 'import secrets; print(secrets.token_urlsafe(48))' generates a strong one."
_WORDS = ("secret", "password", "passwort", "changeme", "change-me", "example", "insecure")


def is_weak(secret: str) -> bool:
    """Return whether a secret looks made up rather than random."""
    said = secret.lower()
    return (
        len(secret) * math.log2(len(set(secret)) or 1) < GUESS_BITS
        or any(word in said for word in _WORDS)
        or _repeats(secret)
    )


def _repeats(text: str) -> bool:
    """Return whether a text is one part repeated; it then contains a shifted copy of itself."""
    return text in (text + text)[1:-1]
