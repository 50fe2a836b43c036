"""What must not stand in a URL: proxies, browsers and error trackers write URLs down."""

from __future__ import annotations

import re
from urllib.parse import unquote_plus

IN_URL = (
    "a token or key in a URL is logged on its way: make another one, and send it in the body of a "
    "POST (/connection/http_stream, /connection/uni_sse), or rely on the session of the page"
)
"""For clients that connect. `cf_connect` is the only place that an `EventSource` has for a token,
so those who need one cannot use it."""

_SECRET_NAMES = frozenset(
    {"token", "access_token", "jwt", "api_key", "apikey", "x_api_key", "authorization"}
)


def has_secret(query: str) -> bool:
    """Tell whether a query string has a parameter that is meant to be a token or a key.

    Or a parameter whose value is JSON with a member that is one, at any depth: Centrifugo's
    `cf_connect` has a command in it, with a token of the connection and one of each subscription.

    It would count for nothing; but whoever tries it should notice the first time, before it stands
    in the log of every proxy on the way (OWASP, CWE-598).
    """
    for part in query.split("&"):
        name, _, value = part.partition("=")
        if _is_secret(unquote_plus(name)) or _names_secret(unquote_plus(value)):
            return True
    return False


def _is_secret(name: str) -> bool:
    return name.strip().lower().replace("-", "_") in _SECRET_NAMES


_BLANK = r"[\s\x00-\x1f\ufeff]*+"  # also what no JSON has: a byte order mark, a vertical tab
_WORDS = "|".join(sorted(_SECRET_NAMES)).replace("_", "[_-]")
_MEMBER = re.compile(
    # Some clients write members that they do not use as empty strings, or as null.
    rf'"{_BLANK}(?:{_WORDS}){_BLANK}"{_BLANK}:{_BLANK}(?!(?:""|null|false){_BLANK}(?:[,}}]|\Z))',
    re.IGNORECASE,
)
_ESCAPED = re.compile(r"\\u([0-9a-f]{4})", re.IGNORECASE)


def _names_secret(text: str) -> bool:
    """Tell whether a text has a member `"token": …` of an object in JSON, however it is written.

    The text is searched and never parsed. In JSON that can be read, nothing but a member looks so:
    a quote within a string has a backslash before it. And what a parser would hide is found, too:
    the first of two members with one name, and all that stands in a text that is no JSON (a byte
    order mark before it, an end that is cut off), which is logged just the same.

    It takes time in proportion to the text: an attempt begins at a quote, gives back nothing that
    it took (``*+``), and ends at the next but one.
    """
    return '"' in text and _MEMBER.search(_ESCAPED.sub(_unescaped, text)) is not None


def _unescaped(found: re.Match[str]) -> str:
    character = chr(int(found[1], 16))
    return found[0] if character in '"\\' else character  # those two would end a string, or not
