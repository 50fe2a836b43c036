"""What must not stand in a URL: proxies, browsers and error trackers write URLs down."""

from __future__ import annotations

from urllib.parse import unquote_plus

import msgspec

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
        if _is_secret(unquote_plus(name)) or _json_has_secret(unquote_plus(value)):
            return True
    return False


def _is_secret(name: str) -> bool:
    return name.strip().lower().replace("-", "_") in _SECRET_NAMES


def _json_has_secret(text: str) -> bool:
    if "{" not in text:
        return False
    # One value that may have line breaks in it, or a frame with a command on each line.
    for line in (text, *text.split("\n")):
        try:
            values = [msgspec.json.decode(line)]
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            continue  # nobody reads a command in it, either
        while values:  # at most as many as the URL has characters
            value = values.pop()
            if isinstance(value, dict):
                # Some clients write members that they do not use as empty strings.
                if any(said and _is_secret(name) for name, said in value.items()):
                    return True
                values.extend(value.values())
            elif isinstance(value, list):
                values.extend(value)
    return False
