"""How the clients of the scenario `joins` say who they are, and what the servers need for it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import cache

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

HS256_SECRET = "only for measuring, but long enough to verify tokens"
TOKEN_SECONDS = 3600


@cache
def _es256_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@cache
def es256_public_key() -> str:
    """Return the public key that verifies the tokens of ES256, as PEM."""
    raw = (
        _es256_key()
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return raw.decode()


def hs256_tokens(count: int) -> list[str]:
    """Return a token for each of this many users, signed with a shared secret."""
    return [jwt.encode(claims, HS256_SECRET, "HS256") for claims in _claims(count)]


def es256_tokens(count: int) -> list[str]:
    """Return a token for each of this many users, signed with a private key."""
    return [jwt.encode(claims, _es256_key(), "ES256") for claims in _claims(count)]


def _claims(count: int) -> list[dict[str, object]]:
    expires = int(time.time()) + TOKEN_SECONDS
    return [{"sub": f"user-{number}", "exp": expires} for number in range(count)]


def sessions(count: int, environment: Mapping[str, str]) -> list[str]:
    """Return the key of a Django session for each of this many users of the service.

    Args:
        count: How many.
        environment: That of the server, which names its database.
    """
    done = subprocess.run(
        [sys.executable, "-m", "bench.identities", str(count)],
        env=dict(environment), capture_output=True, encoding="utf-8", check=True,
    )  # fmt: skip
    keys: list[str] = json.loads(done.stdout)
    return keys


def _log_in_many(count: int) -> list[str]:
    """Create the tables, the users and their sessions."""
    import django

    django.setup()
    from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
    from django.contrib.auth.models import User
    from django.contrib.sessions.backends.db import SessionStore
    from django.core.management import call_command
    from django.db import transaction

    call_command("migrate", verbosity=0)
    keys = []
    with transaction.atomic():
        for number in range(count):
            user = User(username=f"bench-{number}", password="!")
            user.save()
            session = SessionStore()
            session[SESSION_KEY] = str(user.pk)
            session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
            session[HASH_SESSION_KEY] = user.get_session_auth_hash()
            session.save()
            keys.append(str(session.session_key))
    return keys


if __name__ == "__main__":
    print(json.dumps(_log_in_many(int(sys.argv[1]))))
