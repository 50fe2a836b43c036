"""Tokens as a site or an identity provider issues them."""

from __future__ import annotations

import json
import time
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from tests.settings import REALTIME_TOKEN_SECRET


def token(user: str = "42", *, seconds: float = 60, **claims: object) -> str:
    """Return a token that is valid for this many seconds."""
    claims = {"sub": user, "exp": time.time() + seconds, **claims}
    return jwt.encode(claims, REALTIME_TOKEN_SECRET, "HS256")


class Provider:
    """Issues tokens with keys of its own, and publishes some of them in a file."""

    def __init__(self, file: Path, *published: str) -> None:
        self.file = file
        self._keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("old", "new")}
        self.publish(*published)

    def publish(self, *names: str) -> None:
        """Replace the file by one with these keys, like a job that fetches them."""
        keys = [
            {**ECAlgorithm.to_jwk(self._keys[name].public_key(), as_dict=True), "kid": name}
            for name in names
        ]
        aside = self.file.with_suffix(".new")
        aside.write_text(json.dumps({"keys": keys}))
        aside.rename(self.file)

    def token(self, name: str) -> str:
        """Return a token for user 42, signed with the key of that name."""
        claims = {"sub": "42", "exp": time.time() + 60}
        return jwt.encode(claims, self._keys[name], "ES256", headers={"kid": name})
