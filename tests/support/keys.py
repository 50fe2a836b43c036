"""API keys for tests."""

from __future__ import annotations

import hashlib
from typing import Any


def entry(name: str, **fields: Any) -> dict[str, Any]:
    """Return an entry of REALTIME_API_KEYS whose secret is `secret_of(name)`."""
    return {"name": name, "sha256": hashlib.sha256(secret_of(name).encode()).hexdigest()} | fields


def secret_of(name: str) -> str:
    return f"secret-of-{name}-which-nobody-may-see"
