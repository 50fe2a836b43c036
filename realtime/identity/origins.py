"""Decide which pages may connect and use the session: protection against cross-site requests.

A browser adds a site's cookies to requests that pages of other sites cause: WebSocket handshakes
(cross-site WebSocket hijacking, CWE-1385), fetches, and with ``SameSite=Lax`` also links (CSRF,
CWE-352). Two headers tell where a request comes from and cannot be forged by a page: ``Origin``
(RFC 6454 §7, RFC 6455 §10.2) and the fetch metadata ``Sec-Fetch-*`` (W3C Fetch Metadata).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import NamedTuple

from realtime.errors import ConfigurationError

ANY = "*"
SETTING = "REALTIME_ALLOWED_ORIGINS"
_PORTS = {"http": 80, "https": 443}
_ORIGIN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.\-]*)://(?P<wildcard>\*\.)?"
    r"(?P<host>\[[0-9a-f:.]+\]|[a-z0-9_~%.\-]+)(?::(?P<port>[0-9]{0,5}))?"
)
_OTHER_SITES = ("same-site", "cross-site")
_BY_SCRIPT = ("cors", "same-origin", "websocket")  # not navigate (a link), not no-cors (an image)
_INTO_SCRIPT = ("", "empty", "websocket")  # not document, image, script …


class Origin(NamedTuple):
    """Scheme, host and port; the port of http and https is never None."""

    scheme: str
    host: str
    port: int | None


class Pattern(NamedTuple):
    """One entry of the setting: an origin, or all subdomains of a host."""

    origin: Origin
    is_wildcard: bool

    def matches(self, other: Origin) -> bool:
        """Return whether this entry covers an origin."""
        if not self.is_wildcard:
            return other == self.origin
        same = (other.scheme, other.port) == (self.origin.scheme, self.origin.port)
        below = f".{self.origin.host}"
        return same and other.host.endswith(below) and other.host != below


def read_origin(text: str) -> Origin | None:
    """Parse an Origin header; None for ``null`` and for anything that is not an origin."""
    pattern = _read(text)
    return None if pattern is None or pattern.is_wildcard else pattern.origin


def _read(text: str) -> Pattern | None:
    found = _ORIGIN.fullmatch(text.lower())
    if found is None:
        return None
    scheme = found["scheme"]
    port = int(found["port"]) if found["port"] else _PORTS.get(scheme)
    if port is not None and not 0 < port <= 65535:
        return None
    return Pattern(Origin(scheme, found["host"], port), found["wildcard"] is not None)


class AllowedOrigins:
    """The origins that may connect besides our own: the parser for ``ALLOWED_ORIGINS``."""

    def __init__(self, given: Iterable[str], setting: str = SETTING) -> None:
        """Read the setting.

        Args:
            given: Origins as browsers send them, ``https://*.example.com`` for all subdomains of a
                host (but not the host itself), ``*`` for all.
            setting: The setting's name, for errors.

        Raises:
            ConfigurationError: An entry can never match.
        """
        if isinstance(given, str | Mapping) or not isinstance(given, Iterable):
            problem = "must be a list of origins such as https://app.example.com"
            raise ConfigurationError(setting, problem)
        texts = list(given)
        self._any = ANY in texts
        self._patterns = [_parse_entry(setting, text) for text in texts if text != ANY]

    def names(self, origin: Origin) -> bool:
        """Return whether an origin is listed, other than by ``*``."""
        return any(pattern.matches(origin) for pattern in self._patterns)

    def allows(self, text: str) -> bool:
        """Return whether a page with this Origin header may connect."""
        if self._any:
            return True  # whatever the scheme: apps in a web view may even send "null"
        origin = read_origin(text)
        return origin is not None and self.names(origin)


def _parse_entry(setting: str, text: object) -> Pattern:
    pattern = _read(text) if isinstance(text, str) else None
    # Browsers decode percent-encoding in the hosts of http and https URLs (WHATWG URL §3.5).
    is_encoded = (
        pattern is not None and pattern.origin.scheme in _PORTS and "%" in pattern.origin.host
    )
    if pattern is None or is_encoded or pattern.origin.scheme in ("ws", "wss"):
        raise ConfigurationError(
            setting,
            f"contains {text!r}, which is not an origin: use scheme and host, the port if it is "
            "not the default, and no path (https://app.example.com, https://*.example.com, "
            "capacitor://localhost)",
        )
    if pattern.is_wildcard and (pattern.origin.scheme not in _PORTS or _is_address(pattern.origin)):
        raise ConfigurationError(
            setting, f"contains {text!r}: wildcards require a host name under http:// or https://"
        )
    return pattern


def _is_address(origin: Origin) -> bool:
    return origin.host.startswith("[") or origin.host.replace(".", "").isdigit()


class OriginHeaders(NamedTuple):
    """The headers of a request that tell where it comes from."""

    origins: Sequence[str]
    """All Origin headers; more than one is an attack on parsers that differ."""
    site: str = ""
    """``Sec-Fetch-Site``; empty, like the following ones, if the browser does not send it."""
    mode: str = ""
    """``Sec-Fetch-Mode``."""
    destination: str = ""
    """``Sec-Fetch-Dest``."""
    purpose: str = ""
    """``Sec-Purpose``, or its former name ``Purpose``: a prefetch."""


class OwnSite(NamedTuple):
    """The site that a request is for, as far as the server knows it."""

    host: str | None
    """The Host header if it names this service, otherwise None: a page on another name that
    resolves to our address (DNS rebinding) must not pass as our own."""
    is_https: bool = False
    """Whether the browser is known to use HTTPS: to this server, or to a trusted proxy."""
    sends_secure_cookies: bool = False
    """Whether the session cookie is sent over HTTPS only."""

    def is_page(self, origin: Origin) -> bool:
        """Return whether a page belongs to this site.

        If the server only sees HTTP, a proxy may terminate TLS without saying so, so an HTTPS page
        counts as ours, too. An attacker on the network cannot forge one.
        """
        schemes = ("https",) if self.is_https else ("https", "http")
        return self._is_at(origin, schemes)

    def counts_session(self, origin: Origin) -> bool:
        """Return whether a page of this site may use the session.

        With secure cookies only an HTTPS page may: an attacker between browser and server can forge
        an HTTP page, but cannot read such a cookie. If a proxy does not announce TLS, a secure
        cookie proves that there is TLS. Without secure cookies, the cookie can be read from the
        network anyway.
        """
        schemes = ("https",) if self.is_https or self.sends_secure_cookies else ("https", "http")
        return self._is_at(origin, schemes)

    def _is_at(self, origin: Origin, schemes: Sequence[str]) -> bool:
        if self.host is None or origin.scheme not in schemes:
            return False
        return read_origin(f"{origin.scheme}://{self.host}") == origin


class OriginTrust(Enum):
    """What a request is allowed to do."""

    REFUSED = "refused"
    ANONYMOUS = "anonymous"
    """It may connect, but without the session that its cookie names."""
    OWN = "own"
    """A script on a page of this site sent it: the session counts."""


def judge(head: OriginHeaders, own: OwnSite, allowed: AllowedOrigins) -> OriginTrust:
    """Decide about a request that opens a stream or a connection, or sends over one."""
    if len(head.origins) > 1:
        return OriginTrust.REFUSED
    origin = head.origins[0] if head.origins else None
    if head.site in _OTHER_SITES:
        return _of_another_site(origin, head.mode, allowed)
    if origin is None:
        # A client that sends neither header is not a browser, or one too old to send them: a link
        # on another site looks just the same. So does a link that the user follows from a mail
        # (Sec-Fetch-Site: none).
        is_own = head.site == "same-origin" and own.host is not None
        is_own = is_own and head.mode in _BY_SCRIPT and _is_for_script(head)
        return OriginTrust.OWN if is_own else OriginTrust.ANONYMOUS
    page = read_origin(origin)
    if page is not None and own.is_page(page):
        is_own = head.site in ("", "same-origin") and head.mode in ("", *_BY_SCRIPT)
        is_own = is_own and _is_for_script(head) and own.counts_session(page)
        return OriginTrust.OWN if is_own else OriginTrust.ANONYMOUS
    return OriginTrust.ANONYMOUS if allowed.allows(origin) else OriginTrust.REFUSED


def _of_another_site(origin: str | None, mode: str, allowed: AllowedOrigins) -> OriginTrust:
    """Judge a request from a page of another origin, including siblings under the same domain."""
    if origin is None or mode not in ("", *_BY_SCRIPT) or not allowed.allows(origin):
        return OriginTrust.REFUSED
    return OriginTrust.ANONYMOUS


def _is_for_script(head: OriginHeaders) -> bool:
    return head.destination in _INTO_SCRIPT and not head.purpose
