"""Every setting of the app: name, type, default, unit. docs/settings.md is checked against it.

A host project writes ``REALTIME_<NAME>`` in its Django settings. Rings 0 and 1 never see this; they
take the few numbers that they need.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from realtime.api.head import MANY_BYTES, PUBLISH_BYTES
from realtime.brokers.queue_commands import QUEUE_BYTES, QUEUE_ITEMS
from realtime.cloudevents import routes_of
from realtime.errors import ConfigurationError
from realtime.handlers import configured
from realtime.heads import HEADERS_LIMIT
from realtime.jwks import keys_of_set
from realtime.jwks_file import JwksFile
from realtime.keyring import path_of
from realtime.keys import keys_of
from realtime.names import CHANNEL_LIMIT, is_personal_prefix
from realtime.namespaces import Namespaces
from realtime.origins import AllowedOrigins
from realtime.protocols.centrifugo import FRAME_BYTES
from realtime.publication import DATA_LIMIT, DEPTH_LIMIT, TAGS_LIMIT
from realtime.redis_url import read_redis_url
from realtime.tokens import EXPIRY, REQUIRED, key_of
from realtime.url_rules import is_line, read_url

PREFIX = "REALTIME_"


class ImproperSetting(ConfigurationError, ImproperlyConfigured):
    """A setting that cannot work, as Django's own commands know to tell it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings, read and checked once."""

    redis_url: str = ""
    """``redis://``, ``rediss://`` or ``unix://``; all that publishes or delivers needs it."""
    redis_prefix: str = "rt"
    """Starts every key and Redis channel.

    Services that share a Redis must differ in it, even across databases.
    """
    publish_seconds: float = 1.0
    """Until a publish is answered, whatever Redis does."""
    api_key: str = ""
    """The secret that HTTP publishers show as ``X-API-Key``; without one they are all refused."""
    api_keys: str | tuple[Any, ...] = ()
    """Keys for one publisher each, as a list, as JSON, or ``@`` and the path of a file with it."""
    token_secret: str = ""
    """Secret (HS256) of the tokens by which a site says who its clients are; 32 bytes or more."""
    token_public_key: str = ""
    """Public key (PEM) of tokens signed with RS256 or ES256; the algorithm is the key's."""
    token_jwks: str | Mapping[str, Any] = ""
    """Public keys as a JWKS: JSON text, a mapping, or ``@path`` of a file, read when it changes."""
    token_audience: str = ""
    """What must be among a token's ``aud``; empty: anything."""
    token_expiry: str = REQUIRED
    """``required`` refuses tokens without ``exp``, ``optional`` lets them hold for ever."""
    token_grace_seconds: int = 25
    """What a client has to show another token when one has expired. Centrifugo 25."""
    authorizer: str = ""
    """Dotted path of your function ``(identity, channel, action) -> bool``, sync or async."""
    rpc: str = ""
    """Dotted path of your function ``(identity, method, data) -> JSON value``, sync or async."""
    user_info: str = ""
    """Dotted path of your function ``(user) -> JSON value``: what others are shown of a user."""
    personal_channel: str = "user:#"
    """What stands before a user's id in the channel that they listen to by themselves; or empty."""
    url: str = ""
    """Where the service runs, for `manage.py listen`, such as ``https://notify.example.com``."""
    public_url: str = ""
    """Where pages find the service, if not on their own host: ``https://notify.example.com``."""
    namespaces: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """Options by namespace, added to the built-in ones; the default namespace is ``""``."""
    allowed_origins: tuple[str, ...] = ()
    """Origins (``https://app.example.com``) whose pages may connect too; ``*`` for all."""
    outbox_bytes: int = 1024 * 1024
    """Publications that may wait for one slow connection. Centrifugo 1 MiB, NATS 64, Redis 32."""
    window_bytes: int = 1024 * 1024
    """Bytes that one client has not acknowledged; beyond it, publications wait in its outbox."""
    ping_seconds: int = 25
    """How often a connection is pinged. Centrifugo 25, Engine.IO 25; proxies cut at 60."""
    connections: int = 50_000
    """Of one node. Centrifugo advises at most 50,000 to 100,000, NATS has 65,536."""
    connections_per_user: int = 0
    """Of one user at one node; 0: no limit, as in Centrifugo."""
    connections_per_address: int = 0
    """Of one IPv4 address or IPv6 /64 at one node; 0: no limit, since an office may have one."""
    subscriptions_per_address: int = 0
    """New ones a second, of one address at one node, however often it reconnects; 0: no limit."""
    channels_per_connection: int = 128
    """How many channels one connection may listen to. Centrifugo 128."""
    commands_per_second: int = 50
    """Of one connection, in the long run. OWASP begins at 100 a minute, Centrifugo at no limit."""
    commands_burst: int = 256
    """Of one connection, at once; never less than two for each channel that it may listen to."""
    publications_per_second: int = 10
    """Of one connection, in the long run. Pusher 10."""
    publications_burst: int = 50
    """Of one connection, at once."""
    channel_characters: int = CHANNEL_LIMIT
    """Of a channel's name. Centrifugo 255, Pusher 164."""
    headers: int = HEADERS_LIMIT
    """Of one request or handshake. nginx and Apache 100."""
    frame_bytes: int = FRAME_BYTES
    """Of a client's first frame, with all its subscribes; six times as much of later ones, for
    escapes. Centrifugo 64 KiB."""
    body_bytes: int = PUBLISH_BYTES
    """Of a request to the HTTP API with one publication: data, tags and names, all escaped."""
    batch_bytes: int = MANY_BYTES
    """Of a `broadcast` or `batch`. Nginx 1 MiB (client_max_body_size)."""
    data_bytes: int = DATA_LIMIT
    """Of a publication's data as compact JSON. Centrifugo 64 KiB, Pusher 10 KB."""
    data_depth: int = DEPTH_LIMIT
    """How deep a publication's data may be nested; what people send has 4 or 5."""
    tags: int = TAGS_LIMIT
    """Of one publication."""
    fallbacks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Fallbacks by name: ``{"use": "webhook", …}``; those that an app registers need none."""
    fallback_items: int = QUEUE_ITEMS
    """What may be queued for fallbacks; beyond it, what nobody hears is refused (503)."""
    fallback_bytes: int = QUEUE_BYTES
    """Of all that is queued for fallbacks; beyond it, what nobody hears is refused (503)."""
    cloudevents: Sequence[Mapping[str, str]] = ()
    """Rules for the channels of CloudEvents: ``{"type": "…", "channel": "orders:{subject}"}``."""
    connect_seconds: int = 5
    """What a connection has to introduce itself. Centrifugo 10, NATS 2."""

    @classmethod
    def from_django(cls) -> Settings:
        """Read Django's settings.

        Raises:
            ConfigurationError: A value has the wrong type or range; names the setting.
        """
        given = {
            f.name: f for f in fields(cls) if hasattr(django_settings, PREFIX + f.name.upper())
        }
        return cls(
            **{
                name: _checked(name, getattr(django_settings, PREFIX + name.upper()))
                for name in given
            }
        )


def check_setting(name: str, value: Any) -> Any:
    """Return a value as `Settings` has it: for a service that takes settings from elsewhere.

    Args:
        name: Of a field of `Settings`.
        value: What a host would write into its Django settings.

    Raises:
        ConfigurationError: It cannot work; its ``problem`` names neither setting nor secret.
    """
    return _checked(name, value)


def setting_names() -> list[str]:
    """Return the names of all settings, as a host writes them."""
    return [PREFIX + f.name.upper() for f in fields(Settings)]


_RANGES: dict[str, tuple[float, float]] = {
    "publish_seconds": (0.05, 60),
    "outbox_bytes": (128 * 1024, 1024**3),
    "window_bytes": (64 * 1024, 1024**3),
    "ping_seconds": (1, 3600),
    "token_grace_seconds": (0, 3600),
    "connections": (1, 1_000_000),
    "connections_per_user": (0, 1_000_000),
    "connections_per_address": (0, 1_000_000),
    "subscriptions_per_address": (0, 1_000_000),
    "channels_per_connection": (1, 1_000_000),
    "commands_per_second": (1, 1_000_000),
    "commands_burst": (1, 1_000_000),
    "publications_per_second": (1, 1_000_000),
    "publications_burst": (1, 1_000_000),
    "connect_seconds": (1, 3600),
    "channel_characters": (16, CHANNEL_LIMIT),
    "headers": (16, HEADERS_LIMIT),
    "frame_bytes": (1024, FRAME_BYTES),
    "body_bytes": (1024, PUBLISH_BYTES),
    "batch_bytes": (1024, 8 * MANY_BYTES),
    "data_bytes": (1024, DATA_LIMIT),
    "data_depth": (1, DEPTH_LIMIT),
    "tags": (0, TAGS_LIMIT),
    "fallback_items": (1, 10_000_000),
    "fallback_bytes": (128 * 1024, 64 * 1024**3),
}


def _checked(name: str, value: Any) -> Any:
    if name in _RANGES:
        return _number(name, value)
    if name == "allowed_origins":
        return _origins(value)
    if name == "redis_url":
        return _redis_url(name, value)
    if name == "namespaces":
        return _namespaces(name, value)
    if name == "fallbacks":
        return _fallbacks(value)
    if name == "cloudevents":
        return _cloudevents(value)
    if name == "token_jwks":
        return _jwks(name, value)
    if name == "api_keys":
        return _api_keys(value)
    if not isinstance(value, str):
        raise _wrong(name, f"must be a string, not {type(value).__name__}")
    rule, problem = _TEXTS[name]
    if not rule(value):
        raise _wrong(name, problem)  # without the value: two of them are or hold secrets
    return value


def _is_http_url(text: str) -> bool:
    if not text:
        return True
    parts = read_url(text)
    return parts is not None and parts.scheme in ("http", "https", "ws", "wss")


def _is_importable(text: str) -> bool:
    try:
        return not text or callable(import_string(text))
    except ImportError:
        return False


_TEXTS: dict[str, tuple[Callable[[str], Any], str]] = {
    # No braces: they would move the hash tag. No glob: somebody looks for keys by it.
    "redis_prefix": (
        re.compile(r"[A-Za-z0-9_\-.:]{1,64}").fullmatch,
        "must be 1 to 64 characters out of A-Z a-z 0-9 _ - . :",
    ),
    # Servers strip white space around a header, and clients disagree about what is not ASCII.
    "api_key": (
        re.compile(r"[!-~]*").fullmatch,
        "must be visible ASCII without spaces: it travels in a header",
    ),
    "token_secret": (
        # RFC 7518 §3.2: a key as long as the hash, or it can be guessed from one token. White space
        # around it is that of a file or a form, and whoever makes the tokens does not have it.
        lambda text: (
            not text
            or (len(text.encode(errors="replace")) >= 32 and text == text.strip() and is_line(text))
        ),
        "must have at least 32 bytes, without line breaks or spaces around them: "
        "python -c 'import secrets; print(secrets.token_urlsafe(48))'",
    ),
    "token_public_key": (
        lambda text: not text or key_of(text) is not None,
        "must be a public key as PEM, of RSA (2048 bits or more) or of the curve P-256",
    ),
    "token_audience": (
        lambda text: is_line(text) and text == text.strip(),
        "must be one line, without spaces around it",
    ),
    "token_expiry": (EXPIRY.__contains__, f"must be {' or '.join(EXPIRY)}"),
    "authorizer": (_is_importable, "must be the dotted path of a function that can be imported"),
    "rpc": (_is_importable, "must be the dotted path of a function that can be imported"),
    "user_info": (_is_importable, "must be the dotted path of a function that can be imported"),
    "public_url": (_is_http_url, "must be an address such as https://notify.example.com"),
    "personal_channel": (
        lambda text: not text or is_personal_prefix(text),
        'must be the start of a channel that ends in #, such as "user:#" for user:#42, "#" for '
        "#42, or empty for none",
    ),
    "url": (_is_http_url, "must be an address such as https://notify.example.com"),
}


def _number(name: str, value: Any) -> float:
    low, high = _RANGES[name]
    kind = (int, float) if name == "publish_seconds" else int
    if not isinstance(value, kind) or isinstance(value, bool) or not low <= value <= high:
        raise _wrong(name, f"must be a number from {low} to {high}, not {value!r}")
    return value


def _origins(value: Any) -> tuple[str, ...]:
    try:
        AllowedOrigins(value)
    except ConfigurationError as error:
        raise ImproperSetting(error.setting, error.problem) from error
    return tuple(value)


def _redis_url(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong(name, f"must be a string, not {type(value).__name__}")
    try:
        if value:
            read_redis_url(value)
    except ConfigurationError as error:
        raise ImproperSetting(error.setting, error.problem) from None
    return value


def _namespaces(name: str, value: Any) -> Mapping[str, Mapping[str, object]]:
    if not isinstance(value, Mapping):
        raise _wrong(name, "must be a mapping from names to options")
    try:
        Namespaces(value)
    except ConfigurationError as error:
        raise ImproperSetting(error.setting, error.problem) from error
    return value


def _fallbacks(value: Any) -> Mapping[str, Mapping[str, Any]]:
    try:
        configured(value)
    except ConfigurationError as error:
        raise ImproperSetting(error.setting, error.problem) from error
    return value  # type: ignore[no-any-return]


def _cloudevents(value: Any) -> Any:
    try:
        routes_of(value)
    except ConfigurationError as error:
        raise ImproperSetting(error.setting, error.problem) from error
    return value


def _jwks(name: str, value: Any) -> str | Mapping[str, Any]:
    if not isinstance(value, str | Mapping):
        raise _wrong(name, "must be JSON text, @path of a file, or a mapping")
    given: str | Mapping[str, Any] = value
    try:
        if isinstance(given, str) and given.startswith("@"):
            JwksFile(given[1:])
        elif given:
            keys_of_set(given)
    except ConfigurationError as error:
        raise ImproperSetting(error.setting, error.problem) from error
    return given


def _api_keys(value: Any) -> Any:
    if path_of(value) is not None:
        return value  # the file is the keyring's: whoever publishes not over HTTP needs none
    try:
        keys_of(value)
    except ConfigurationError as error:
        raise ImproperSetting(error.setting, error.problem) from error
    return value


def _wrong(name: str, problem: str) -> ImproperSetting:
    return ImproperSetting(PREFIX + name.upper(), problem)
