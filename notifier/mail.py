"""Parses EMAIL_URL, the mail server of the fallback `email`, into Django's settings.

Without one, mails are printed for a person to see (DEBUG), or sent to a mail server on this
machine, which is Django's default. Pure: opens nothing.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote, urlsplit

from realtime.core.url_rules import is_line, read_url

TIMEOUT_SECONDS = 20
_PORTS = {"smtp": 25, "smtp+tls": 587, "smtps": 465}
_BACKENDS = "django.core.mail.backends."


class BadEmailUrl(ValueError):
    """An invalid URL. The text ends a sentence, without the value, which may hold a password."""


def email_settings(url: str, *, debug: bool) -> dict[str, Any]:
    """Return Django's mail settings.

    Args:
        url: ``smtp://``, ``smtp+tls://`` (STARTTLS) or ``smtps://``, each with
            ``user:password@host:port``; ``console:`` prints mails, ``file:///path`` writes each to
            a file. Empty is the default.
        debug: Whether a person reads what is printed.

    Raises:
        BadEmailUrl: It is invalid.
    """
    if not url:
        return {"EMAIL_BACKEND": f"{_BACKENDS}console.EmailBackend"} if debug else {}
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise BadEmailUrl(_MEANT) from error
    if parts.query or parts.fragment or not is_line(unquote(url)):
        raise BadEmailUrl(_MEANT)
    if parts.scheme == "console" and not (parts.netloc or parts.path):
        return {"EMAIL_BACKEND": f"{_BACKENDS}console.EmailBackend"}
    if parts.scheme == "file" and parts.path and not parts.netloc:
        return {
            "EMAIL_BACKEND": f"{_BACKENDS}filebased.EmailBackend",
            "EMAIL_FILE_PATH": unquote(parts.path),
        }
    if parts.scheme not in _PORTS or read_url(url) is None or parts.path.strip("/"):
        raise BadEmailUrl(_MEANT)
    return {
        "EMAIL_BACKEND": f"{_BACKENDS}smtp.EmailBackend",
        "EMAIL_HOST": parts.hostname,
        "EMAIL_PORT": port or _PORTS[parts.scheme],
        "EMAIL_HOST_USER": unquote(parts.username or ""),
        "EMAIL_HOST_PASSWORD": unquote(parts.password or ""),
        "EMAIL_USE_TLS": parts.scheme == "smtp+tls",
        "EMAIL_USE_SSL": parts.scheme == "smtps",
        "EMAIL_TIMEOUT": TIMEOUT_SECONDS,
    }


_MEANT = (
    "is not a valid URL: use smtp+tls://user:password@host:587 (or smtp://, smtps://, console:, "
    "file:///path) without options, and percent-encode special characters (@ is %40)."
)
