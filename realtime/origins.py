"""Whether a page may open a connection: the rule against cross-site WebSocket hijacking (CWE-1385).

Browsers send the Origin of the page with every handshake (RFC 6455 §10.2) and no page can forge it.
A client without one is not a browser: it is let in, and its cookies count for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import SplitResult, urlsplit

_PORTS = {"http": 80, "https": 443}


def may_connect(origins: Sequence[str], host: str | None, allowed: Sequence[str]) -> bool:
    """Tell whether a handshake may go on.

    Args:
        origins: All ``Origin`` headers of the handshake; more than one is an attack on parsers that
            differ.
        host: The ``Host`` header if it names this service, otherwise None: a page on a foreign name
            that resolves to our address (DNS rebinding) must not pass as our own.
        allowed: Origins of other pages that may connect; ``*`` for all.
    """
    if not origins:
        return True
    if len(origins) > 1:
        return False
    if "*" in allowed or origins[0] in allowed:
        return True  # whatever its scheme: apps in a web view have one of their own, or "null"
    origin = _parsed(origins[0])
    if origin is None:
        return False
    return is_own_page(origins, host) or any(
        _identity(origin) == _identity(other)
        for other in map(_parsed, allowed)
        if other is not None
    )


def is_own_page(origins: Sequence[str], host: str | None) -> bool:
    """Tell whether the page that connects is one of this service, whose cookies count.

    Args:
        origins: All ``Origin`` headers of the handshake.
        host: As for `may_connect`.
    """
    origin = _parsed(origins[0]) if len(origins) == 1 else None
    return origin is not None and host is not None and _is_same_host(origin, host)


def _parsed(origin: str) -> SplitResult | None:
    """Return an origin's parts; None for ``null`` and whatever else is not an http(s) origin."""
    try:
        parts = urlsplit(origin)
        _ = parts.port
    except ValueError:
        return None
    # `urlsplit` drops tabs and line breaks, and an empty path, query or fragment leaves no trace.
    plain = origin.lower() == f"{parts.scheme}://{parts.netloc}".lower() and "@" not in origin
    return parts if parts.scheme in _PORTS and parts.hostname and plain else None


def _identity(origin: SplitResult) -> tuple[str, str | None, int]:
    return (origin.scheme, origin.hostname, origin.port or _PORTS[origin.scheme])


def _is_same_host(origin: SplitResult, host: str) -> bool:
    """Compare host and port only: behind a proxy that ends TLS we do not see the page's scheme."""
    own = _parsed(f"{origin.scheme}://{host}")
    return own is not None and _identity(own) == _identity(origin)
