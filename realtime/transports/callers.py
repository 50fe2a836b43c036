"""Identifies the sender of a request by its headers; applies `identity.origins` in ASGI and Django.

The scheme of the site is determined as in Django: by ``SECURE_PROXY_SSL_HEADER`` if the project
sets it, otherwise by the server, which evaluates ``X-Forwarded-Proto`` from trusted proxies; its
host by ``X-Forwarded-Host`` if the project sets ``USE_X_FORWARDED_HOST``. The settings of the
session cookie are taken into account as well.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, MutableMapping, Sequence
from typing import Any, NamedTuple

from django.conf import settings
from django.core.exceptions import DisallowedHost
from django.http import HttpRequest
from django.http.request import split_domain_port, validate_host

from realtime import wiring
from realtime.core.tally import Tally
from realtime.errors import ConfigurationError, Forbidden
from realtime.identity.origins import (
    ANY,
    AllowedOrigins,
    OriginHeaders,
    OriginTrust,
    OwnSite,
    judge,
    read_origin,
)
from realtime.wiring.configured import remember

logger = logging.getLogger(__name__)

REMEMBERED_CALLERS = 256
"""The sets of headers whose judgment is remembered."""
REMEMBERED_BYTES = 512
"""The size of the values in such a set; strangers choose them."""

Headers = tuple[tuple[bytes, bytes], ...]

_foreign = Tally()
_SECURE_PREFIXES = ("__host-", "__secure-")  # RFC 6265bis §4.1.3: browsers insist on HTTPS


class Caller(NamedTuple):
    """The sender of a request that was not refused."""

    is_own_page: bool
    """Whether a script on a page of this site sent it, so that the session is valid for it."""
    cors: dict[str, str]
    """Headers that let the script on its page read the response (Fetch, CORS protocol)."""


def caller_of(scope: MutableMapping[str, Any]) -> Caller:
    """Return the sender of a request or a handshake.

    The clients of a site send the same few headers, and judging them took 14 µs of each new
    connection, 27 µs from a browser. So the result is remembered by those headers.

    Raises:
        Forbidden: The sender is a page of a site that may not connect, or a link or image on one.
    """
    names = _names_judged()
    judged = tuple([(name, value) for name, value in scope["headers"] if name in names])
    scheme = scope.get("scheme", "")
    # Some projects change their hosts at run time.
    hosts = tuple(settings.ALLOWED_HOSTS)
    if sum([len(value) for _, value in judged]) > REMEMBERED_BYTES:
        return _judge(judged, scheme, hosts)
    return _judge_and_remember(judged, scheme, hosts)


@remember(1)
def _names_judged() -> frozenset[bytes]:
    names = {b"host", b"x-forwarded-host", b"origin", b"sec-purpose", b"purpose"}
    names |= {b"sec-fetch-site", b"sec-fetch-mode", b"sec-fetch-dest"}
    if settings.SECURE_PROXY_SSL_HEADER:
        names.add(_header_name(settings.SECURE_PROXY_SSL_HEADER[0]))
    return frozenset(names)


def _judge(judged: Headers, scheme: str, hosts: Sequence[str]) -> Caller:
    found = _values(judged)
    head = _head(found)
    allowed = wiring.allowed_origins()
    standing = judge(head, _own_site(scheme, found, hosts), allowed)
    if standing is OriginTrust.REFUSED:
        _log_foreign_page(head)
        raise Forbidden
    is_own = standing is OriginTrust.OWN
    return Caller(is_own, _cors(head.origins[0], allowed, is_own) if head.origins else {})


_judge_and_remember = remember(REMEMBERED_CALLERS)(_judge)  # not what it refused


def _cors(origin: str, allowed: AllowedOrigins, is_own: bool) -> dict[str, str]:
    headers = {
        "Access-Control-Allow-Origin": origin,
        "Vary": "Origin",
        "Cross-Origin-Resource-Policy": "cross-origin",
    }
    page = read_origin(origin)
    # HTMX opens its streams with credentials. We ignore them on pages of other sites, so this
    # header only satisfies the browser; "*" must not allow it for every site (Fetch §3.3.3).
    if is_own or (page is not None and allowed.names(page)):
        headers["Access-Control-Allow-Credentials"] = "true"
    return headers


def is_own_page(request: HttpRequest) -> bool:
    """Tell by its Origin whether a page of this site sent a Django request."""
    origins = _origins(request)
    standing = judge(_head_of(request, origins), _site_of(request), AllowedOrigins(()))
    return bool(origins) and standing is OriginTrust.OWN


def may_have_token(request: HttpRequest) -> bool:
    """Tell whether a request for a token comes from a page that may have one.

    A request without Origin is allowed unless the browser reports that another site caused it:
    pages of other sites cannot read the response. Pages that the project trusts with its forms
    (``CSRF_TRUSTED_ORIGINS``) are allowed, because its own CORS middleware may admit them.
    """
    origins = _origins(request)
    standing = judge(_head_of(request, origins), _site_of(request), _trusted_origins())
    if standing is not OriginTrust.ANONYMOUS or not origins:
        return standing is not OriginTrust.REFUSED
    page = read_origin(origins[0])
    return page is not None and _trusted_origins().names(page)


def _trusted_origins() -> AllowedOrigins:
    named = [origin for origin in wiring.settings().allowed_origins if origin != ANY]
    trusted: list[str] = []
    for origin in settings.CSRF_TRUSTED_ORIGINS:
        try:
            AllowedOrigins([origin])
        except ConfigurationError:
            continue  # left to Django
        trusted.append(origin)
    return AllowedOrigins([*named, *trusted])


def _values(headers: Headers) -> Callable[[bytes], list[str]]:
    def values(name: bytes) -> list[str]:
        return [value.decode("latin-1") for key, value in headers if key == name]

    return values


def _head(values: Callable[[bytes], list[str]]) -> OriginHeaders:
    return OriginHeaders(
        values(b"origin"),
        ",".join(values(b"sec-fetch-site")),
        ",".join(values(b"sec-fetch-mode")),
        ",".join(values(b"sec-fetch-dest")),
        ",".join(values(b"sec-purpose") or values(b"purpose")),
    )


def _origins(request: HttpRequest) -> list[str]:
    origin = request.headers.get("Origin")
    return [] if origin is None else [origin]


def _head_of(request: HttpRequest, origins: Sequence[str]) -> OriginHeaders:
    said = request.headers.get
    return OriginHeaders(
        origins,
        said("Sec-Fetch-Site", ""),
        said("Sec-Fetch-Mode", ""),
        said("Sec-Fetch-Dest", ""),
        said("Sec-Purpose", "") or said("Purpose", ""),
    )


def _own_site(scheme: str, values: Callable[[bytes], list[str]], allowed: Sequence[str]) -> OwnSite:
    hosts = (values(b"x-forwarded-host") if settings.USE_X_FORWARDED_HOST else []) or values(
        b"host"
    )
    host = hosts[0] if len(hosts) == 1 and _is_ours(hosts[0], allowed) else None
    return OwnSite(host, _is_https(scheme, values), _sends_secure_cookies())


def _site_of(request: HttpRequest) -> OwnSite:
    try:
        host = request.get_host()
    except DisallowedHost:
        host = None
    return OwnSite(host, request.is_secure(), _sends_secure_cookies())


def _is_https(scheme: str, values: Callable[[bytes], list[str]]) -> bool:
    """Tell whether the browser uses HTTPS, like `HttpRequest.scheme`, but also for handshakes."""
    if settings.SECURE_PROXY_SSL_HEADER:
        name, secure = settings.SECURE_PROXY_SSL_HEADER
        said = values(_header_name(name))
        if said:
            return said[0].split(",", 1)[0].strip() == secure
    return scheme in ("https", "wss")


def _header_name(name: str) -> bytes:
    """Return the name of a header in ASGI; Django has it as in WSGI."""
    return name.removeprefix("HTTP_").replace("_", "-").lower().encode("latin-1")


def _sends_secure_cookies() -> bool:
    name = settings.SESSION_COOKIE_NAME.lower()
    return settings.SESSION_COOKIE_SECURE or name.startswith(_SECURE_PREFIXES)


def _is_ours(host: str, allowed: Sequence[str]) -> bool:
    """Tell whether a Host header names this site, by Django's ALLOWED_HOSTS."""
    if settings.DEBUG and not allowed:
        allowed = [".localhost", "127.0.0.1", "[::1]"]  # as Django itself does
    domain, _ = split_domain_port(host)
    return bool(domain) and validate_host(domain, allowed)


def _log_foreign_page(head: OriginHeaders) -> None:
    """Log a refused page at most once a minute, or anyone could fill the disk."""
    count = _foreign.add("origin", time.monotonic())
    if count is not None:
        logger.warning(
            "refused a connection from a page of %s: see REALTIME_ALLOWED_ORIGINS (%d so far)",
            ascii(list(head.origins) or head.site)[:200],
            count,
        )
