"""What an address in a setting may look like: one rule for all of them.

`urllib.parse.urlsplit` removes line breaks and tabs, and keeps what is percent-encoded in a host as
it is. Both are typing errors, or somebody's attempt to make two readers see two hosts (CWE-918).
"""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit

_PRINTABLE = re.compile(r"[!-~]+")
_LABEL = re.compile(r"[A-Za-z0-9_\-]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def is_line(text: str) -> bool:
    """Tell whether a text has no control characters, such as line breaks."""
    return _CONTROL.search(text) is None


def is_host(text: str) -> bool:
    """Tell whether a text is a host's name as it travels in ASCII, or an address of IPv4."""
    return all(map(_LABEL.fullmatch, text.removesuffix(".").split(".")))


def read_url(text: str) -> SplitResult | None:
    """Return the parts of an address with a host; None if it has spaces, or a strange host."""
    if not _PRINTABLE.fullmatch(text):
        return None
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return None
    host = parts.hostname or ""
    # urlsplit has checked what is within brackets.
    return parts if is_host(host) or ":" in host else None
