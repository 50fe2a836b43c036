"""Every setting of the app that is not a whole number, and the code that reads the settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from django.conf import settings as django_settings

from realtime.api.cloudevent_routes import ATTRIBUTES_LIMIT, RULES_LIMIT
from realtime.conf import rules
from realtime.conf.declared import UnusableValue, declarations, number, text, value
from realtime.conf.improper import ImproperSetting
from realtime.conf.limits import NumericSettings
from realtime.errors import ConfigurationError
from realtime.identity.tokens import EXPIRY, REQUIRED

PREFIX = "REALTIME_"
_FUNCTION = "must be the dotted path of an importable function"
_URL = "must be a URL such as https://notify.example.com"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(NumericSettings):
    """The settings, read and checked once."""

    redis_url: str = value(
        "",
        rules.redis_url,
        kind="string",
        doc="`redis://host:port/number`, `rediss://…` or `unix:///path`; "
        "`redis+sentinel://host1:port,host2:port/mastername/number` or `rediss+sentinel://…`, the "
        "master that [sentinels](deploy.md#sentinel) name; "
        "`redis+cluster://host1:port,host2:port` or `rediss+cluster://…`, some nodes of a [Redis "
        "Cluster](deploy.md#cluster); or `memory://`, a broker "
        "inside a single process, [for tests and a first try](howto/testing.md). Required for "
        "publishing and delivery. The options are `db`, `username`, `password`, `client_name`, "
        "for sentinels `sentinel_username` and `sentinel_password`, and, "
        "for TLS, `ssl_cert_reqs` (`required`, `optional`, `none`), `ssl_check_hostname`, "
        "`ssl_ca_certs`, `ssl_ca_path`, `ssl_ca_data`, `ssl_certfile`, `ssl_keyfile`, "
        "`ssl_password`, `ssl_ciphers`, `ssl_min_version` (`771`, `772`); retries and timeouts "
        "cannot be set. Percent-encode special characters of the password (`%40`).",
    )
    jobs_redis_url: str = value(
        "",
        rules.jobs_redis_url,
        kind="string",
        doc="The Redis of [background jobs](jobs.md), if it is another one: one address or "
        "sentinels, in the same form. Required with a cluster, which Celery does not know.",
    )
    redis_prefix: str = text(
        "rt",
        rules.is_redis_prefix,
        "must be 1 to 64 characters from A-Z a-z 0-9 _ - . :",
        doc="Prefix of every key and Redis channel: 1 to 64 characters from `A-Z a-z 0-9 _ - . "
        ":`. Services that share a Redis need different prefixes, even on different databases, "
        "because pub/sub ignores database numbers.",
    )
    publish_seconds: float = number(
        1.0,
        at_least=0.05,
        at_most=60,
        unit="seconds",
        doc="Time limit of a publish, whatever Redis does.",
        precedent="redis-py alone would try for many seconds.",
    )
    api_key: str = text(
        "",
        rules.is_header_value,
        "must be printable ASCII without spaces, because it is sent in a header",
        doc="A single key with all permissions, sent as `X-API-Key`; visible ASCII. Without any "
        "key, all HTTP publishers are refused (401).",
    )
    api_keys: str | tuple[Any, ...] = value(
        (),
        rules.api_keys,
        kind="list or string",
        doc="[Keys for single publishers](http-api.md#keys), as a list, as JSON, or as `@` and "
        "the path of a file that is read again when it changes.",
    )
    metrics_key: str = text(
        "",
        rules.is_header_value,
        "must be printable ASCII without spaces, because it is sent in a header",
        doc="Key with which Prometheus may read [`/metrics`](metrics.md), as a bearer token; "
        "without it, that path is not found.",
    )
    token_secret: str = text(
        "",
        rules.is_token_secret,
        f"must have at least {rules.SECRET_BYTES} bytes, without line breaks or surrounding "
        "spaces: python -c 'import secrets; print(secrets.token_urlsafe(48))'",
        unit=f"bytes, {rules.SECRET_BYTES} or more",
        doc="Secret (HS256) of the [tokens](protocol.md#identity) by which a site identifies its "
        "clients. Without this, a public key or a JWKS, all tokens are refused.",
    )
    token_public_key: str = text(
        "",
        rules.is_public_key,
        "must be a public key in PEM format: RSA with at least 2048 bits, or P-256",
        doc="Public key (PEM) of tokens signed with RS256 (2048 bits or more) or ES256 (P-256); "
        "the key determines the algorithm.",
    )
    token_jwks: str | Mapping[str, Any] = value(
        "",
        rules.token_jwks,
        kind="string or mapping",
        doc="Public keys as a [JWKS](https://www.rfc-editor.org/rfc/rfc7517#section-5), RS256 and "
        "ES256 only: JSON text, a mapping, or `@path` of a file that is [read again when it "
        "changes](deploy.md#token-keys).",
    )
    token_audience: str = text(
        "",
        rules.is_one_line,
        "must be one line without surrounding spaces",
        doc="Audience that the `aud` claim of a token must contain; empty: any.",
    )
    token_expiry: str = text(
        REQUIRED,
        EXPIRY.__contains__,
        f"must be {' or '.join(EXPIRY)}",
        kind='`"required"` or `"optional"`',
        doc='Whether tokens must have `exp`. `"optional"` accepts tokens without it, as '
        "Centrifugo does; they are valid until their key changes, and `check --deploy` warns.",
    )
    authorizer: str = text(
        "",
        rules.is_function,
        _FUNCTION,
        doc="Dotted path of your function `(identity, channel, action) -> bool`, sync or async. "
        "It decides where [no built-in rule](protocol.md#permissions) does. An async function is "
        "cancelled when its client disconnects: await work that several calls share with "
        "`asyncio.shield`.",
    )
    rpc: str = text(
        "",
        rules.is_function,
        _FUNCTION,
        doc="Dotted path of your function `(identity, method, data) -> JSON value`, sync or "
        "async. It answers the [`rpc` commands](protocol.md#commands) of clients, and receives "
        "what they `send`. An async function is cancelled like the authorizer.",
    )
    user_info: str = text(
        "",
        rules.is_function,
        _FUNCTION,
        unit="JSON, 4 KiB",
        doc="Dotted path of your function `(user) -> JSON value`, sync or async. It returns what "
        "others are [shown](protocol.md#pub) of a logged-in user who publishes from a page, such "
        "as a name. Lazy strings are translated into the language that the function has "
        "activated. If the function fails, nothing is shown, and the error is logged.",
    )
    personal_channel: str = text(
        "user:#",
        rules.is_personal_channel,
        'must be a channel prefix that ends in #, such as "user:#" for user:#42 or "#" for #42, or '
        "empty for no personal channels",
        doc="Prefix of the user's id in the name of the channel to which [the node "
        'subscribes](protocol.md#subscribe-from-the-node) each user\'s clients: `user:#42`; `"#"` '
        "for Centrifugo's `#42`; empty for none. Its namespace must be configured.",
    )
    session_user_prefix: str = text(
        "",
        rules.is_user_prefix,
        "must be up to 31 characters from A-Z a-z 0-9 _ - and a dot, such as staff., or empty",
        doc="Prefix of the ids of users who are logged in by a session, if [tokens are about the "
        "users of another project](howto/beside-the-service.md): with `staff.`, user 1 is "
        "`staff.1`, with the personal channel `user:#staff.1`. No token may claim such an id. "
        "Empty: session and tokens are about the same users. The service uses `service.`.",
    )
    url: str = text(
        "",
        rules.is_service_url,
        f"{_URL}, without port 0",
        doc="Address of the service, for `manage.py listen`. The environment variable of the same "
        "name takes precedence.",
    )
    public_url: str = text(
        "",
        rules.is_public_url,
        f"{_URL}, without user, password or port 0",
        doc="Address of the service for pages of another host, for the [template "
        "tag](howto/django-host.md#pages-of-another-host): `https://notify.example.com`, without "
        "user or password.",
    )
    path_prefix: str = text(
        "/",
        rules.is_path_prefix,
        'must begin and end with a slash, such as "/live/"',
        doc="Path below which this project serves the WebSocket and the [event "
        "streams](event-stream.md): with `/live/`, they are at `/live/connection/websocket`, "
        "`/live/connection/sse` and so on, and the template tags write these addresses.",
    )
    namespaces: Mapping[str, Mapping[str, object]] = value(
        {},
        rules.namespaces,
        kind="mapping",
        doc="Options of each [namespace](#namespaces), in addition to the built-in ones.",
    )
    allowed_origins: tuple[str, ...] = value(
        (),
        rules.allowed_origins,
        kind="list",
        doc="Origins (`https://app.example.com`, `capacitor://localhost`) whose pages may "
        "connect, in addition to the service's own site. `https://*.example.com` allows all "
        "subdomains, but not the domain itself; `*` allows all origins, without credentials.",
    )
    cloudevents: Sequence[Mapping[str, str]] = value(
        (),
        rules.cloudevents,
        kind="list",
        unit=f"at most {RULES_LIMIT} rules, each with at most {ATTRIBUTES_LIMIT} attributes of up "
        "to 256 characters",
        doc="Rules that choose the channel of [CloudEvents](http-api.md#events) that name none.",
    )
    fallbacks: Mapping[str, Mapping[str, Any]] = value(
        {},
        rules.fallbacks,
        kind="mapping",
        doc="[Fallbacks](fallbacks.md#built-in) by name. Fallbacks that an app registers are not "
        "listed here.",
    )
    outbox_keep_seconds: float = number(
        0.0,
        at_least=0,
        at_most=31 * 86_400,
        unit="seconds",
        doc="How long [the outbox](howto/outbox.md) keeps what it has published, so that pages can "
        "fetch what they missed. 0: published rows are deleted at once.",
    )
    webpush_private_key: str = text(
        "",
        rules.is_webpush_key,
        "must be a private key that `manage.py webpush_keys` has written",
        doc="Private key (VAPID) of [web push](howto/webpush.md), by which push services recognise "
        "the site. Browsers are subscribed to its public half: with another key, all of them must "
        "subscribe again.",
    )
    webpush_subject: str = text(
        "",
        rules.is_webpush_subject,
        "must be mailto: and an address, or an https: URL",
        doc="How the operators of push services reach you: `mailto:ops@example.com`. Required for "
        "web push.",
    )
    webpush_otherwise: str = text(
        "",
        rules.is_fallback_name,
        "must be the name of a fallback",
        doc="The [fallback](fallbacks.md) of a publication for users who have allowed "
        "notifications in no browser, such as `email`. Empty: it becomes a dead letter.",
    )
    webpush_allow_private: bool = value(
        False,
        rules.boolean,
        kind="boolean",
        doc="Whether endpoints of browsers may be in a private network, or use `http:`: for a push "
        "service of your own, and for tests.",
    )
    tracing: bool = value(
        False,
        rules.tracing,
        kind="boolean",
        doc="Whether to make [OpenTelemetry spans](howto/tracing.md) of publications, of the "
        "attempts of fallbacks and of background jobs. Needs the extra `otel`.",
    )

    @classmethod
    def from_django(cls) -> Settings:
        """Read Django's settings.

        Raises:
            ConfigurationError: A value has the wrong type or range; names the setting.
        """
        given = {
            each.name: getattr(django_settings, PREFIX + each.name.upper())
            for each in fields(cls)
            if hasattr(django_settings, PREFIX + each.name.upper())
        }
        return cls(**{name: check_setting(name, each) for name, each in given.items()})


DECLARED = declarations(Settings)
"""The declaration of each setting, by the name of its field."""


def check_setting(name: str, given: Any) -> Any:
    """Return a value as `Settings` holds it, for a service that reads settings from elsewhere.

    Args:
        name: A field of `Settings`.
        given: What a host would write into its Django settings.

    Raises:
        ConfigurationError: It is invalid; its ``problem`` names neither the setting nor a secret.
    """
    try:
        return DECLARED[name].check(given)
    except UnusableValue as error:
        raise ImproperSetting(PREFIX + name.upper(), str(error)) from None
    except ConfigurationError as error:
        # Without the cause, which may quote a password.
        raise ImproperSetting(error.setting, error.problem) from None


def setting_names() -> list[str]:
    """Return the names of all settings, as a host writes them."""
    return [PREFIX + name.upper() for name in DECLARED]
