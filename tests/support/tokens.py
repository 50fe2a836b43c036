"""Tokens as a site makes them."""

from __future__ import annotations

import time

import jwt

from tests.settings import REALTIME_TOKEN_SECRET


def token(user: str = "42", *, seconds: float = 60, **claims: object) -> str:
    """Return a token that holds for so many seconds."""
    claims = {"sub": user, "exp": time.time() + seconds, **claims}
    return jwt.encode(claims, REALTIME_TOKEN_SECRET, "HS256")
