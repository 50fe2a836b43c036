"""Encrypts messages for browsers (RFC 8291 and 8188), and signs who sends them (RFC 8292).

Written here, because the libraries that do this also bring an HTTP client, which would not check
addresses, or have had no release for years. The primitives are those of `cryptography`; a test
holds the whole against the example of RFC 8291, Appendix A.

No clock and no chance: time, salt and key are arguments.
"""

from __future__ import annotations

import base64
import binascii
from typing import NamedTuple

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

RECORD_BYTES = 4096
"""The record size that all push services take (RFC 8291 §4)."""
_OVERHEAD_BYTES = 16 + 4 + 1 + 65 + 1 + 16
"""Salt, record size, length of the key, key; delimiter and tag of AES-GCM."""
MESSAGE_BYTES = RECORD_BYTES - _OVERHEAD_BYTES
"""What fits into one message: 3,993 bytes (RFC 8291 §4)."""
AUTH_BYTES, POINT_BYTES, PRIVATE_BYTES = 16, 65, 32
VAPID_SECONDS = 12 * 3600
"""How long a signature is valid; at most 24 hours (RFC 8292 §2)."""

PrivateKey = ec.EllipticCurvePrivateKey


class BrowserKeys(NamedTuple):
    """The keys of a subscription."""

    p256dh: bytes
    """The browser's public key, an uncompressed point."""
    auth: bytes
    """16 bytes that the browser shared with us alone."""


def decode_keys(p256dh: str, auth: str) -> BrowserKeys | None:
    """Parse the keys of a subscription; None if they cannot be used."""
    try:
        keys = BrowserKeys(decode_base64url(p256dh), decode_base64url(auth))
        if len(keys.p256dh) != POINT_BYTES or len(keys.auth) != AUTH_BYTES:
            return None
        _public_key(keys.p256dh)  # not every point is on the curve (CWE-347)
    except (ValueError, binascii.Error):
        return None
    return keys


def encrypt(message: bytes, keys: BrowserKeys, salt: bytes, sender: PrivateKey) -> bytes:
    """Return the body of a request to the push service.

    Args:
        message: At most `MESSAGE_BYTES`.
        keys: The browser's.
        salt: 16 random bytes.
        sender: A new key for this message alone.
    """
    own = _point(sender)
    shared = sender.exchange(ec.ECDH(), _public_key(keys.p256dh))
    info = b"WebPush: info\0" + keys.p256dh + own
    secret = _derive(keys.auth, shared, info, 32)
    key = _derive(salt, secret, b"Content-Encoding: aes128gcm\0", 16)
    nonce = _derive(salt, secret, b"Content-Encoding: nonce\0", 12)
    # 2 is the delimiter of the last record; there is only one (RFC 8188 §2).
    sealed = AESGCM(key).encrypt(nonce, message + b"\x02", None)
    head = salt + RECORD_BYTES.to_bytes(4, "big") + bytes([len(own)]) + own
    return head + sealed


def vapid_header(audience: str, subject: str, key: PrivateKey, now: float) -> str:
    """Return the header ``Authorization`` by which a push service recognises us (RFC 8292 §3).

    Args:
        audience: The origin of the push service.
        subject: How its operator reaches us: ``mailto:`` or ``https:``.
        key: Ours, always the same.
        now: In seconds since 1970.
    """
    claims = {"aud": audience, "exp": int(now) + VAPID_SECONDS, "sub": subject}
    token = jwt.encode(claims, key, "ES256")
    return f"vapid t={token}, k={public_text(key)}"


def read_private_key(text: str) -> PrivateKey | None:
    """Return the private key that `private_text` wrote; None if it is not one."""
    try:
        raw = decode_base64url(text)
        number = int.from_bytes(raw, "big")
        return ec.derive_private_key(number, ec.SECP256R1()) if len(raw) == PRIVATE_BYTES else None
    except (ValueError, binascii.Error):
        return None


def private_text(key: PrivateKey) -> str:
    """Return a private key as base64url, the form of the other tools for Web Push."""
    raw = key.private_numbers().private_value.to_bytes(PRIVATE_BYTES, "big")
    return encode_base64url(raw)


def public_text(key: PrivateKey) -> str:
    """Return the public key as base64url: ``applicationServerKey`` of the Push API."""
    return encode_base64url(_point(key))


def encode_base64url(raw: bytes) -> str:
    """Return base64url without padding (RFC 7515 §2)."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def decode_base64url(text: str) -> bytes:
    """Parse base64url, with or without padding.

    Raises:
        ValueError: It is invalid; `binascii.Error` is one.
    """
    plain = text.rstrip("=")
    if "+" in plain or "/" in plain:  # base64 as it was before; Python would take both
        raise ValueError("not base64url")
    return base64.b64decode(plain + "=" * (-len(plain) % 4), altchars=b"-_", validate=True)


def _point(key: PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def _public_key(point: bytes) -> ec.EllipticCurvePublicKey:
    return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)


def _derive(salt: bytes, secret: bytes, info: bytes, length: int) -> bytes:
    return HKDF(SHA256(), length, salt, info).derive(secret)
