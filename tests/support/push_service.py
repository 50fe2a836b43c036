"""A push service, and the browsers behind it, which decrypt by RFC 8291 with code of their own."""

from __future__ import annotations

import base64
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.support.http_server import Quiet, serving


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _raw(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _point(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


class PushBrowser:
    """The keys of one browser, and what it has been sent."""

    def __init__(self, key: ec.EllipticCurvePrivateKey | None = None, auth: bytes = b"") -> None:
        self._key = key or ec.generate_private_key(ec.SECP256R1())
        self.auth = auth or os.urandom(16)
        self.p256dh = _text(_point(self._key.public_key()))
        self.status = 201
        """What its push service answers."""
        self.messages: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []

    def subscription(self, endpoint: str) -> dict[str, Any]:
        """Return it as ``PushSubscription.toJSON()``."""
        keys = {"p256dh": self.p256dh, "auth": _text(self.auth)}
        return {"endpoint": endpoint, "expirationTime": None, "keys": keys}

    def decrypt(self, body: bytes) -> bytes:
        """RFC 8291 §3.4; RFC 8188 §2: salt (16), record size (4), key with its length, record."""
        salt, own = body[:16], _point(self._key.public_key())
        assert int.from_bytes(body[16:20], "big") == 4096
        sender = body[21 : 21 + body[20]]
        public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), sender)
        shared = self._key.exchange(ec.ECDH(), public)
        info = b"WebPush: info\0" + own + sender
        secret = HKDF(SHA256(), 32, self.auth, info).derive(shared)
        key = HKDF(SHA256(), 16, salt, b"Content-Encoding: aes128gcm\0").derive(secret)
        nonce = HKDF(SHA256(), 12, salt, b"Content-Encoding: nonce\0").derive(secret)
        record = AESGCM(key).decrypt(nonce, body[21 + body[20] :], None).rstrip(b"\0")
        assert record.endswith(b"\x02"), "the delimiter of the last record"
        return record[:-1]


@dataclass
class PushService:
    """See the module."""

    port: int = 0
    browsers: dict[str, PushBrowser] = field(default_factory=dict)
    """By the path of their endpoint."""
    senders: set[str] = field(default_factory=set)
    """The public keys of those whose signature was valid."""
    received: threading.Condition = field(default_factory=threading.Condition)

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def add(self, name: str) -> dict[str, Any]:
        """Add a browser; return its subscription."""
        browser = self.browsers[f"/{name}"] = PushBrowser()
        return browser.subscription(f"{self.origin}/{name}")

    def take(self, path: str, headers: dict[str, str], body: bytes) -> int:
        browser = self.browsers[path]
        self._check(headers)
        with self.received:
            status = browser.status  # a test that waits for this message may change it at once
            browser.headers.append(headers)
            if status < 300:
                browser.messages.append(json.loads(browser.decrypt(body)))
            self.received.notify_all()
        return status

    def wait_for(self, name: str, count: int = 1, seconds: float = 60) -> PushBrowser:
        """Wait until a browser has been sent so many messages, taken or not."""
        browser = self.browsers[f"/{name}"]
        with self.received:
            assert self.received.wait_for(lambda: len(browser.headers) >= count, seconds)
        return browser

    def _check(self, headers: dict[str, str]) -> None:
        """Check who sends: RFC 8292; and what every push service requires: RFC 8030, RFC 8188."""
        assert headers["content-encoding"] == "aes128gcm"
        assert headers["ttl"].isdecimal()
        scheme, _, rest = headers["authorization"].partition(" ")
        assert scheme == "vapid"
        said = dict(part.strip().split("=", 1) for part in rest.split(","))
        public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), _raw(said["k"]))
        claims = jwt.decode(said["t"], public, ["ES256"], audience=self.origin)
        assert claims["sub"].startswith("mailto:")
        self.senders.add(said["k"])


@contextmanager
def push_service() -> Iterator[PushService]:
    """Run one on loopback."""
    service = PushService()

    class Handler(Quiet, BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            self.send_response(service.take(self.path, headers, body))
            self.send_header("Content-Length", "0")
            self.end_headers()

    with serving(Handler) as port:
        service.port = port
        yield service
