"""The fallback `webhook`: posts a queued publication to a configured URL.

Signed according to Standard Webhooks (github.com/standard-webhooks/standard-webhooks, its `spec`),
so that receivers can use a library. The URL is never taken from a publication, redirects are not
followed, and an address on our own network is rejected unless the configuration allows it:
otherwise, anyone who names a host could make us contact our neighbours (CWE-918).
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
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult

from realtime.core.addresses import is_public
from realtime.core.url_rules import read_url
from realtime.errors import ConfigurationError, GiveUp

if TYPE_CHECKING:
    from realtime.core.fallback_entry import Queued

REQUEST_SECONDS = 15.0
"""For one POST in total: the specification recommends 15 to 30."""
SECRET_BYTES = range(24, 65)
SECRETS_LIMIT = 4  # the new one, and the old one until the receiver has switched
LOOK_UPS_LIMIT = 16
"""Concurrent host look-ups in one process, including those whose caller has given up."""
GONE = 410
OPTIONS = ("url", "secret", "secret_file", "allow_private", "seconds")


LookUp = Callable[..., list[tuple[Any, ...]]]
"""A function like `socket.getaddrinfo`."""
_look_ups = threading.BoundedSemaphore(LOOK_UPS_LIMIT)


class WebhookFailed(Exception):
    """The receiver refused the request or is unreachable; a retry may succeed."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """Sends POST requests. A handler, to be called in a thread."""

    url: SplitResult
    secrets: tuple[bytes, ...] = field(repr=False)
    allow_private: bool = False
    seconds: float = REQUEST_SECONDS
    look_up: LookUp = field(default=socket.getaddrinfo, repr=False)

    def __call__(self, queued: Queued) -> None:
        """Post one publication.

        Raises:
            GiveUp: The receiver is gone for good (410).
            WebhookFailed: The attempt failed, and should be repeated.
        """
        body = _body(queued)
        headers = {
            "Host": self.url.netloc,
            "Content-Type": "application/json",
            "User-Agent": "django-realtime-notifier",
            "Connection": "close",
            **signature(queued.id, int(time.time()), body, self.secrets),
        }
        if queued.trace:
            headers["traceparent"] = queued.trace  # not part of the signature
        status, location = self._post(body, headers)
        if 200 <= status < 300:
            return
        if status == GONE:
            raise GiveUp("the receiver is permanently gone (410)")
        if location:
            raise WebhookFailed(
                f"the receiver answered {status} with a redirect to {location}, "
                "which is not followed"
            )
        raise WebhookFailed(f"the receiver answered {status}")

    def _post(self, body: bytes, headers: Mapping[str, str]) -> tuple[int, str]:
        deadline = _Deadline(self.seconds)
        connection = HTTPConnection(self.url.hostname or "", self._port)
        try:
            connection.sock = deadline.guard(self._connect(deadline))
            if self.url.scheme == "https":
                secured = ssl.create_default_context().wrap_socket(
                    connection.sock,
                    server_hostname=self.url.hostname,
                    do_handshake_on_connect=False,  # but below, where the deadline covers it
                )
                connection.sock = secured
                deadline.guard(secured)
                secured.do_handshake()
            connection.request("POST", _path(self.url), body, dict(headers))
            response: HTTPResponse = connection.getresponse()
            if deadline.has_passed:  # a truncated head is indistinguishable from a complete one
                raise TimeoutError
            location = ascii(response.getheader("Location") or "")[1:-1][:200]
            return response.status, location if 300 <= response.status < 400 else ""
        except (OSError, HTTPException, ValueError) as error:
            # The socket's own timeout expires at the same moment, and may be first.
            if deadline.has_passed or isinstance(error, TimeoutError):
                raise WebhookFailed(f"no response within {self.seconds:g} s") from error
            raise WebhookFailed(f"no response: {type(error).__name__}: {error}"[:300]) from error
        finally:
            deadline.cancel()
            connection.close()

    @property
    def _port(self) -> int:
        return self.url.port or _PORTS[self.url.scheme]

    def _connect(self, deadline: _Deadline) -> socket.socket:
        """Connect to a vetted address, not to a name that may resolve differently by now."""
        host, port = self.url.hostname or "", self._port
        try:
            found = _resolve(self.look_up, host, port, deadline)
        except TimeoutError as error:
            raise WebhookFailed(f"resolving {host} took longer than {self.seconds:g} s") from error
        addresses = list(dict.fromkeys(str(info[4][0]) for info in found))
        if not self.allow_private:
            addresses = [address for address in addresses if is_public(address)]
            if not addresses:
                raise WebhookFailed(
                    f"{host} is in a private network: set allow_private to permit it"
                )
        return _connect_any(addresses, port, deadline)


class _Deadline:
    """Shuts down a socket when its time is over, wherever a thread is blocked on it.

    A socket timeout applies to each read alone: sending one byte a second would evade it.
    """

    def __init__(self, seconds: float) -> None:
        self.socket: socket.socket | None = None
        self.has_passed = False
        self._at = time.monotonic() + seconds
        self._timer = threading.Timer(seconds, self._pass)
        self._timer.daemon = True
        self._timer.start()

    @property
    def left(self) -> float:
        """Seconds until it passes; never 0, which a socket takes for non-blocking."""
        return max(0.001, self._at - time.monotonic())

    def guard(self, guarded: socket.socket) -> socket.socket:
        """Apply the deadline to this socket.

        Raises:
            TimeoutError: It has already passed, and would no longer end the socket.
        """
        guarded.settimeout(self.left)
        self.socket = guarded
        if self.has_passed:
            guarded.close()
            raise TimeoutError
        return guarded

    def cancel(self) -> None:
        self._timer.cancel()

    def _pass(self) -> None:
        self.has_passed = True
        with contextlib.suppress(OSError):  # it is closed already
            if self.socket is not None:
                self.socket.shutdown(socket.SHUT_RDWR)


_PORTS = {"https": 443, "http": 80}


def webhook_of(options: Mapping[str, Any]) -> Webhook:
    """Return a handler with the options of a configuration.

    Raises:
        ConfigurationError: An option is unknown, missing or invalid; the message shows no secret.
    """
    for name in options:
        if name not in OPTIONS:
            raise ConfigurationError("webhook", f"unknown option {ascii(name)[:40]}")
    allow_private, seconds = (
        options.get("allow_private", False),
        options.get("seconds", REQUEST_SECONDS),
    )
    if not isinstance(allow_private, bool):
        raise ConfigurationError("webhook", "allow_private must be true or false")
    if not isinstance(seconds, int | float) or not 0.1 <= seconds <= 300:
        raise ConfigurationError("webhook", "seconds must be a number from 0.1 to 300")
    return Webhook(_url(options.get("url")), _secrets(options), allow_private, float(seconds))


def signature(
    message_id: str, timestamp: int, body: bytes, secrets: tuple[bytes, ...]
) -> dict[str, str]:
    """Return the headers that prove to the receiver that a request is from us, and recent.

    One signature per secret, separated by spaces: HMAC-SHA256 over ``id.timestamp.body`` (Standard
    Webhooks 1.0, "Signature scheme").
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


def _resolve(look_up: LookUp, host: str, port: int, deadline: _Deadline) -> list[tuple[Any, ...]]:
    """Resolve a host in a thread of its own: `getaddrinfo` has no timeout and cannot be cancelled.

    Hung threads are daemons, so that the process can exit, and there are at most `LOOK_UPS_LIMIT`;
    beyond that, callers wait for one of them until their own deadline.

    Raises:
        TimeoutError: The deadline passed first.
        OSError: The host does not exist, or cannot be resolved at present.
    """
    found: Future[list[tuple[Any, ...]]] = Future()

    def run() -> None:
        try:
            found.set_result(look_up(host, port, type=socket.SOCK_STREAM))
        except (OSError, ValueError) as error:  # ValueError: no name by IDNA
            found.set_exception(error)
        finally:
            _look_ups.release()

    if not _look_ups.acquire(timeout=deadline.left):
        raise TimeoutError
    try:
        threading.Thread(target=run, name="realtime resolver", daemon=True).start()
    except RuntimeError:  # the machine has no threads left
        _look_ups.release()
        raise
    return found.result(deadline.left)


def _connect_any(addresses: list[str], port: int, deadline: _Deadline) -> socket.socket:
    """Connect to the first address that answers; each gets its share of the remaining time."""
    errors: list[OSError] = []
    for number, address in enumerate(addresses):
        try:
            seconds = deadline.left / (len(addresses) - number)
            return socket.create_connection((address, port), timeout=seconds)
        except OSError as error:
            errors.append(error)
    raise errors[-1]


def _url(value: object) -> SplitResult:
    url = read_url(value) if isinstance(value, str) else None
    if url is None or url.scheme not in _PORTS:
        raise ConfigurationError(
            "webhook",
            "url must be a URL such as https://example.com/x, in ASCII and without spaces; "
            "its port, if any, must be from 1 to 65535",
        )
    if "@" in url.netloc:  # even with an empty name or password
        raise ConfigurationError(
            "webhook", "url must have no user or password: receivers check the signature"
        )
    return url


def _secrets(options: Mapping[str, Any]) -> tuple[bytes, ...]:
    given = options.get("secret")
    if (file := options.get("secret_file")) is not None:
        if given is not None or not isinstance(file, str):
            raise ConfigurationError(
                "webhook", "set exactly one of secret and secret_file (a path)"
            )
        try:
            given = Path(file).read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise ConfigurationError("webhook", f"secret_file cannot be read: {error}") from None
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not 1 <= len(texts) <= SECRETS_LIMIT:
        raise ConfigurationError(
            "webhook",
            f"secret must be one secret or a list of up to {SECRETS_LIMIT}, newest first",
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
            f"secret must have {SECRET_BYTES[0]} to {SECRET_BYTES[-1]} bytes, base64 after whsec_: "
            "python -c 'import secrets; print(secrets.token_urlsafe(32))'",
        ) from None
    return secret
