"""The fallback `webhook`: what nobody heard, as a POST to an address of the configuration.

Signed as Standard Webhooks has it (github.com/standard-webhooks/standard-webhooks, its `spec`), so
that receivers can use a library. The address is never a publication's, redirects are not followed,
and an address inside of our own network is refused where the configuration does not allow it: or
whoever names a host could make us speak to our neighbours (CWE-918).
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hmac
import json
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult

from realtime.addresses import is_public
from realtime.errors import ConfigurationError, GiveUp
from realtime.queued import Queued
from realtime.url_rules import read_url

SECONDS = 15.0
"""For one POST as a whole: the specification recommends 15 to 30."""
SECRET_BYTES = range(24, 65)
SECRETS_LIMIT = 4  # the new one, and the old one for as long as the receiver has not changed
GONE = 410
OPTIONS = ("url", "secret", "secret_file", "allow_private", "seconds")


class NotTaken(Exception):
    """The receiver did not take it, or could not be reached; it may take it later."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """Posts. A handler, to be called in a thread."""

    url: SplitResult
    secrets: tuple[bytes, ...] = field(repr=False)
    allow_private: bool = False
    seconds: float = SECONDS

    def __call__(self, queued: Queued) -> None:
        """Post one publication.

        Raises:
            GiveUp: The receiver is gone for good (410).
            NotTaken: Not now.
        """
        body = _body(queued)
        headers = {
            "Host": self.url.netloc.rpartition("@")[2],
            "Content-Type": "application/json",
            "User-Agent": "django-realtime-notifier",
            "Connection": "close",
            **signature(queued.id, int(time.time()), body, self.secrets),
        }
        status, location = self._post(body, headers)
        if 200 <= status < 300:
            return
        if status == GONE:
            raise GiveUp("the receiver is gone for good (410)")
        if location:
            raise NotTaken(f"answered {status} to {location}: redirects are not followed")
        raise NotTaken(f"answered {status}")

    def _post(self, body: bytes, headers: Mapping[str, str]) -> tuple[int, str]:
        deadline = _Deadline(self.seconds)
        connection = HTTPConnection(self.url.hostname or "", self._port)
        try:
            connection.sock = deadline.socket = self._connected()
            if self.url.scheme == "https":
                connection.sock = deadline.socket = ssl.create_default_context().wrap_socket(
                    deadline.socket,
                    server_hostname=self.url.hostname,
                    do_handshake_on_connect=False,  # but within the deadline, which has it now
                )
                connection.sock.do_handshake()
            connection.request("POST", _path(self.url), body, dict(headers))
            response: HTTPResponse = connection.getresponse()
            if deadline.has_passed:  # the end of a head that was cut off looks like its end
                raise TimeoutError
            location = ascii(response.getheader("Location") or "")[1:-1][:200]
            return response.status, location if 300 <= response.status < 400 else ""
        except (OSError, HTTPException, ValueError) as error:
            # The socket's own timeout comes at the same moment, and may come first.
            if deadline.has_passed or isinstance(error, TimeoutError):
                raise NotTaken(f"no answer within {self.seconds:g} s") from error
            raise NotTaken(f"no answer: {type(error).__name__}: {error}"[:300]) from error
        finally:
            deadline.cancel()
            connection.close()

    @property
    def _port(self) -> int:
        return self.url.port or _PORTS[self.url.scheme]

    def _connected(self) -> socket.socket:
        """Connect to an address that was looked at, not to a name that may lead elsewhere now."""
        host, port = self.url.hostname or "", self._port
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(info[4][0]) for info in found))
        if not self.allow_private:
            addresses = [address for address in addresses if is_public(address)]
            if not addresses:
                raise NotTaken(f"{host} is an address of a private network: see allow_private")
        return _opened(addresses, port, self.seconds)


class _Deadline:
    """Ends a socket when its time is over, wherever a thread waits in it.

    A timeout of the socket holds for each read alone: who drips a byte a second has no end.
    """

    def __init__(self, seconds: float) -> None:
        self.socket: socket.socket | None = None
        self.has_passed = False
        self._timer = threading.Timer(seconds, self._pass)
        self._timer.daemon = True
        self._timer.start()

    def cancel(self) -> None:
        self._timer.cancel()

    def _pass(self) -> None:
        self.has_passed = True
        with contextlib.suppress(OSError):  # it has ended by itself
            if self.socket is not None:
                self.socket.shutdown(socket.SHUT_RDWR)


_PORTS = {"https": 443, "http": 80}


def webhook_of(options: Mapping[str, Any]) -> Webhook:
    """Return the handler with the options of a configuration.

    Raises:
        ConfigurationError: One of them is unknown, missing or cannot be; shows no secret.
    """
    for name in options:
        if name not in OPTIONS:
            raise ConfigurationError("webhook", f"has no option {ascii(name)[:40]}")
    allow_private, seconds = options.get("allow_private", False), options.get("seconds", SECONDS)
    if not isinstance(allow_private, bool):
        raise ConfigurationError("webhook", "allow_private must be true or false")
    if not isinstance(seconds, int | float) or not 0.1 <= seconds <= 300:
        raise ConfigurationError("webhook", "seconds must be a number from 0.1 to 300")
    return Webhook(_url(options.get("url")), _secrets(options), allow_private, float(seconds))


def signature(
    message_id: str, timestamp: int, body: bytes, secrets: tuple[bytes, ...]
) -> dict[str, str]:
    """Return the headers by which a receiver knows that it is from us, and new.

    One signature for each secret, with a space between: HMAC-SHA256 over ``id.timestamp.body``
    (Standard Webhooks 1.0, "Signature scheme").
    """
    said = f"{message_id}.{timestamp}.".encode() + body
    signed = [base64.b64encode(hmac.digest(secret, said, "sha256")).decode() for secret in secrets]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{one}" for one in signed),
    }


def _body(queued: Queued) -> bytes:
    published = datetime.fromtimestamp(queued.published_at, UTC).isoformat()
    body = {
        "type": queued.event or "publication",
        "timestamp": published.replace("+00:00", "Z"),
        "id": queued.id,
        "channel": queued.channel,
        "data": queued.data,
        "tags": dict(queued.tags),
    }
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()


def _path(url: SplitResult) -> str:
    return (url.path or "/") + (f"?{url.query}" if url.query else "")


def _opened(addresses: list[str], port: int, seconds: float) -> socket.socket:
    """Connect to the first of the addresses that answers."""
    errors: list[OSError] = []
    for address in addresses:
        try:
            return socket.create_connection((address, port), timeout=seconds / len(addresses))
        except OSError as error:
            errors.append(error)
    raise errors[-1]


def _url(value: object) -> SplitResult:
    url = read_url(value) if isinstance(value, str) else None
    if url is None or url.scheme not in _PORTS or url.username:
        raise ConfigurationError(
            "webhook",
            "url must be an address such as https://example.com/x, in ASCII and without spaces",
        )
    return url


def _secrets(options: Mapping[str, Any]) -> tuple[bytes, ...]:
    given = options.get("secret")
    if (file := options.get("secret_file")) is not None:
        if given is not None or not isinstance(file, str):
            raise ConfigurationError("webhook", "give either secret or secret_file, a path")
        try:
            given = Path(file).read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise ConfigurationError("webhook", f"secret_file cannot be read: {error}") from None
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not 1 <= len(texts) <= SECRETS_LIMIT:
        raise ConfigurationError(
            "webhook",
            f"secret must be a secret, or a list of up to {SECRETS_LIMIT}, the new one first",
        )
    return tuple(map(_secret, texts))


def _secret(text: object) -> bytes:
    try:
        if not isinstance(text, str):
            raise ValueError
        if text.startswith("whsec_"):
            secret = base64.b64decode(text.removeprefix("whsec_"), validate=True)
        else:
            secret = text.encode()
        if len(secret) not in SECRET_BYTES:
            raise ValueError
    except (ValueError, binascii.Error):
        raise ConfigurationError(
            "webhook",
            f"secret must have {SECRET_BYTES[0]} to {SECRET_BYTES[-1]} bytes, after whsec_ as "
            "base64: python -c 'import secrets; print(secrets.token_urlsafe(32))'",
        ) from None
    return secret
