"""One rule for all URLs in settings.

`urllib.parse.urlsplit` removes line breaks and tabs, and keeps percent-encoded hosts as they are.
Both are typing errors, or an attempt to make two parsers see different hosts (CWE-918).
"""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit

_PRINTABLE = re.compile(r"[!-~]+")
_LABEL = re.compile(r"[A-Za-z0-9_\-]+")
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
"""Control characters, and everything that ends a line for `str.splitlines`."""


def is_line(text: str) -> bool:
    """Return whether a text is free of control characters, such as line breaks."""
    return CONTROL.search(text) is None


def is_host(text: str) -> bool:
    """Return whether a text is an ASCII host name or an IPv4 address."""
    return all(map(_LABEL.fullmatch, text.removesuffix(".").split(".")))


def read_url(text: str) -> SplitResult | None:
    """Parse a URL with a host; None if it has spaces or an invalid host.

    Port 0 is rejected, too: no server listens on it, and `parts.port or default` would silently use
    the default.
    """
    if not _PRINTABLE.fullmatch(text):
        return None
    try:
        parts = urlsplit(text)
        if parts.port == 0:
            return None
    except ValueError:
        return None
    host = parts.hostname or ""
    # urlsplit has validated anything in brackets.
    return parts if is_host(host) or ":" in host else None
