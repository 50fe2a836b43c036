"""What must not stand in a URL: proxies, browsers and error trackers write URLs down."""

from __future__ import annotations

from urllib.parse import unquote_plus

_SECRET_NAMES = frozenset(
    {"token", "access_token", "jwt", "api_key", "apikey", "x_api_key", "authorization"}
)


def has_secret(query: str) -> bool:
    """Tell whether a query string has a parameter that is meant to be a token or a key.

    It would count for nothing; but who tries it should notice the first time, before it stands in
    the log of every proxy on the way (OWASP, CWE-598).
    """
    return any(_name(part) in _SECRET_NAMES for part in query.split("&"))


def _name(part: str) -> str:
    return unquote_plus(part.partition("=")[0]).strip().lower().replace("-", "_")
