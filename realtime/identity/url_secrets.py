"""Find secrets in URLs, where they do not belong: proxies, browsers and error trackers log URLs."""

from __future__ import annotations

import re
from urllib.parse import unquote_plus

IN_URL = (
    "URLs are logged: replace this token or key, and send the new one in the body of a POST "
    "(/connection/http_stream, /connection/uni_sse), or rely on the session of the page"
)
"""For clients that connect. `cf_connect` is the only place where an `EventSource` can put a token,
so clients that need a token cannot use it."""

_SECRET_NAMES = frozenset(
    {"token", "access_token", "jwt", "api_key", "apikey", "x_api_key", "authorization"}
)


def has_secret(query: str) -> bool:
    """Return whether a query string has a parameter that is meant as a token or a key.

    Or a parameter whose value is JSON with such a member, at any depth: Centrifugo's `cf_connect`
    holds a command, with a connection token and one token for each subscription.

    It would have no effect, but the developer should notice on the first attempt, before every
    proxy along the path has logged it (OWASP, CWE-598).
    """
    for part in query.split("&"):
        name, _, value = part.partition("=")
        if _is_secret(unquote_plus(name)) or _names_secret(unquote_plus(value)):
            return True
    return False


def _is_secret(name: str) -> bool:
    return name.strip().lower().replace("-", "_") in _SECRET_NAMES


_BLANK = r"[\s\x00-\x1f\ufeff]*+"  # also what JSON excludes: a byte order mark, a vertical tab
_WORDS = "|".join(sorted(_SECRET_NAMES)).replace("_", "[_-]")
_MEMBER = re.compile(
    # Some clients write unused members as empty strings, or as null.
    rf'"{_BLANK}(?:{_WORDS}){_BLANK}"{_BLANK}:{_BLANK}(?!(?:""|null|false){_BLANK}(?:[,}}]|\Z))',
    re.IGNORECASE,
)
_ESCAPED = re.compile(r"\\u([0-9a-f]{4})", re.IGNORECASE)


def _names_secret(text: str) -> bool:
    """Return whether a text has a JSON object member `"token": …`, however it is written.

    The text is searched, never parsed. In valid JSON only a member looks like that: in a string, a
    quote has a backslash before it. The search also finds what a parser would hide: the first of
    two members with the same name, and members in a text that is not JSON (a leading byte order
    mark, a truncated end), which is logged just the same.

    Runs in linear time: an attempt starts at a quote, never backtracks (``*+``), and ends at the
    second quote after it at the latest.
    """
    return '"' in text and _MEMBER.search(_ESCAPED.sub(_unescape, text)) is not None


def _unescape(found: re.Match[str]) -> str:
    character = chr(int(found[1], 16))
    return found[0] if character in '"\\' else character  # those two would end a string, or not
