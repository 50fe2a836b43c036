"""Validation of the settings that are not numbers, each by the parser that the app itself uses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from django.utils.module_loading import import_string

from realtime.api.cloudevent_routes import routes_of
from realtime.api.key_entries import keys_of
from realtime.api.keyring import path_of
from realtime.auth.jwks_file import JwksFile
from realtime.conf.declared import UnusableValue, string
from realtime.core.names import checked_fallback, is_personal_prefix
from realtime.core.namespaces import Namespaces
from realtime.core.redis_url import (
    CLUSTER_FORM,
    MEMORY_URL,
    SENTINEL_FORM,
    is_cluster_url,
    read_redis_url,
)
from realtime.core.url_rules import is_line, read_url
from realtime.errors import ConfigurationError, InvalidName
from realtime.fallbacks.handlers import make_handlers
from realtime.identity.jwks import keys_of_set
from realtime.identity.origins import AllowedOrigins
from realtime.identity.tokens import key_of
from realtime.identity.web_push import read_private_key

SECRET_BYTES = 32  # RFC 7518 §3.2: a key shorter than the hash can be brute-forced from one token

# No braces, which would move the hash tag. No glob characters: operators search for keys with it.
is_redis_prefix = re.compile(r"[A-Za-z0-9_\-.:]{1,64}").fullmatch
# Servers strip white space around a header, and clients disagree about non-ASCII characters.
is_header_value = re.compile(r"[!-~]*").fullmatch
_USER_PREFIX = re.compile(r"(?:[A-Za-z0-9_\-]{1,31}\.)?")
_PATH_SEGMENT = re.compile(r"[A-Za-z0-9_\-~][A-Za-z0-9_\-~.]*")


def is_token_secret(secret: str) -> bool:
    """Return whether a secret is long enough, and free of white space from a file or a form.

    The site that issues the tokens does not have that white space in its copy.
    """
    if not secret:
        return True
    is_long = len(secret.encode(errors="replace")) >= SECRET_BYTES
    return is_long and secret == secret.strip() and is_line(secret)


def is_public_key(pem: str) -> bool:
    """Return whether a text is empty, or a public key that can verify tokens."""
    return not pem or key_of(pem) is not None


def is_one_line(text: str) -> bool:
    """Return whether a text is one line without surrounding white space."""
    return is_line(text) and text == text.strip()


def is_webpush_key(text: str) -> bool:
    """Return whether a text is empty, or a private key for web push."""
    return not text or read_private_key(text) is not None


def is_webpush_subject(text: str) -> bool:
    """Return whether a text is empty, or a contact by RFC 8292 §2.1."""
    is_contact = text.startswith(("mailto:", "https://")) and text.partition(":")[2] != ""
    return not text or (is_contact and is_one_line(text) and " " not in text)


def is_fallback_name(text: str) -> bool:
    """Return whether a text is empty, or may be the name of a fallback."""
    try:
        return not text or bool(checked_fallback(text))
    except InvalidName:
        return False


def boolean(given: Any) -> bool:
    """Return a boolean; other values are mistakes."""
    if not isinstance(given, bool):
        raise UnusableValue(f"must be True or False, not {given!r}"[:80])
    return bool(given)


def is_function(path: str) -> bool:
    """Return whether a text is empty, or the dotted path of a callable."""
    try:
        return not path or callable(import_string(path))
    except ImportError:
        return False


def is_personal_channel(prefix: str) -> bool:
    """Return whether a text is empty, or forms one user's channel when followed by an id."""
    return not prefix or is_personal_prefix(prefix)


def is_service_url(text: str) -> bool:
    """Return whether a text is empty, or a URL that clients can connect to."""
    if not text:
        return True
    parts = read_url(text)
    return parts is not None and parts.scheme in ("http", "https", "ws", "wss")


def is_public_url(text: str) -> bool:
    """Return whether a text is empty, or a URL that any page may show.

    Browsers reject WebSocket URLs with a user or password anyway.
    """
    return is_service_url(text) and "@" not in urlsplit(text).netloc


def is_user_prefix(text: str) -> bool:
    """Return whether a text is empty, or can begin the ids of users in names of channels.

    Without a colon: in `news#staff:1` it would end the name of a namespace.
    """
    return _USER_PREFIX.fullmatch(text) is not None


def is_path_prefix(text: str) -> bool:
    """Return whether a text begins and ends with a slash, and has nothing that needs escaping."""
    first, *segments = text.split("/")
    if first or not segments or segments.pop():
        return False
    return all(map(_PATH_SEGMENT.fullmatch, segments))


def redis_url(given: Any) -> str:
    """Return a URL that redis-py parses as we do, or ``memory://``; empty is none."""
    if isinstance(given, Mapping | list | tuple):  # as django-redis and channels_redis want it
        raise UnusableValue(
            f"must be one URL; with sentinels, {SENTINEL_FORM}; with a cluster, {CLUSTER_FORM}"
        )
    url = string(given)
    if url and url != MEMORY_URL:
        read_redis_url(url)
    return url


def jobs_redis_url(given: Any) -> str:
    """Return a URL that Celery can use; empty is the one of `redis_url`."""
    url = string(given)
    if not url:
        return url
    try:
        read_redis_url(url)
    except ConfigurationError as error:
        raise UnusableValue(error.problem) from None
    if is_cluster_url(url):
        raise UnusableValue("must not be a cluster, which Celery does not know")
    return url


def api_keys(given: Any) -> Any:
    """Return keys. A key file is read by the keyring: processes that only deliver need none."""
    if path_of(given) is None:
        keys_of(given)
    return given


def token_jwks(given: Any) -> str | Mapping[str, Any]:
    """Return a key set, or the ``@path`` of a file with one."""
    if not isinstance(given, str | Mapping):
        raise UnusableValue("must be JSON text, @path of a file, or a mapping")
    jwks: str | Mapping[str, Any] = given
    if isinstance(jwks, str) and jwks.startswith("@"):
        JwksFile(jwks[1:])
    elif jwks:
        keys_of_set(jwks)
    return jwks


def tracing(given: Any) -> bool:
    """Return whether to trace. Nothing looks for OpenTelemetry unless it is wanted."""
    wanted = boolean(given)
    # Parts of OpenTelemetry share the package, so it may exist without its API.
    if wanted and (find_spec("opentelemetry") is None or find_spec("opentelemetry.trace") is None):
        raise UnusableValue(
            "is on, but OpenTelemetry is not installed: "
            "pip install 'django-realtime-notifier[otel]', and the SDK of OpenTelemetry"
        )
    return wanted


def namespaces(given: Any) -> Mapping[str, Mapping[str, object]]:
    """Return options by namespace."""
    if not isinstance(given, Mapping):
        raise UnusableValue("must be a mapping of names to options")
    Namespaces(given)
    return given


def allowed_origins(given: Any) -> tuple[str, ...]:
    """Return origins as a tuple."""
    AllowedOrigins(given)
    return tuple(given)


def fallbacks(given: Any) -> Any:
    """Return fallback descriptions by name."""
    make_handlers(given)
    return given


def cloudevents(given: Any) -> Any:
    """Return the rules that map CloudEvents to channels."""
    routes_of(given)
    return given
