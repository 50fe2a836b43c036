"""API keys for tests."""

from __future__ import annotations

import hashlib
from typing import Any

from realtime.api.keys import BY_DEFAULT


def entry(name: str, **fields: Any) -> dict[str, Any]:
    """Return an entry of REALTIME_API_KEYS whose secret is `secret_of(name)`.

    It lists its permissions, as `createapikey` writes it; a field of None is omitted.
    """
    digest = hashlib.sha256(secret_of(name).encode()).hexdigest()
    lists = {"methods": list(BY_DEFAULT), "fallbacks": []}
    made = {"name": name, "sha256": digest} | lists | fields
    return {name: value for name, value in made.items() if value is not None}


def secret_of(name: str) -> str:
    return f"secret-of-{name}-which-nobody-may-see"
