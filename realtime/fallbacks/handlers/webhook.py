"""The fallback `webhook`: posts a queued publication to a configured URL.

Signed according to Standard Webhooks (github.com/standard-webhooks/standard-webhooks, its `spec`),
so that receivers can use a library. The URL is never taken from a publication; see
`realtime.fallbacks.posting` for the others' rules.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult

from realtime.core.url_rules import read_url
from realtime.errors import ConfigurationError, GiveUp
from realtime.fallbacks.posting import PORTS, LookUp, PostFailed, VettedPost

if TYPE_CHECKING:
    from realtime.core.fallback_entry import Queued

REQUEST_SECONDS = 15.0
"""For one POST in total: the specification recommends 15 to 30."""
SECRET_BYTES = range(24, 65)
SECRETS_LIMIT = 4  # the new one, and the old one until the receiver has switched
GONE = 410
OPTIONS = ("url", "secret", "secret_file", "allow_private", "seconds")


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
        post = VettedPost(
            self.url, seconds=self.seconds, allow_private=self.allow_private, look_up=self.look_up
        )
        try:
            status, answered = post.send(body, headers)
        except PostFailed as error:
            raise WebhookFailed(str(error)) from error
        if 200 <= status < 300:
            return
        if status == GONE:
            raise GiveUp("the receiver is permanently gone (410)")
        location = ascii(answered.get("Location") or "")[1:-1][:200]
        if location and 300 <= status < 400:
            raise WebhookFailed(
                f"the receiver answered {status} with a redirect to {location}, "
                "which is not followed"
            )
        raise WebhookFailed(f"the receiver answered {status}")


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


def _url(value: object) -> SplitResult:
    url = read_url(value) if isinstance(value, str) else None
    if url is None or url.scheme not in PORTS:
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
