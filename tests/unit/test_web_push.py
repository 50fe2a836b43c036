"""Encryption of messages for browsers, and the signature of their sender."""

from __future__ import annotations

import base64

import jwt
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from realtime.identity.web_push import (
    MESSAGE_BYTES,
    RECORD_BYTES,
    BrowserKeys,
    decode_base64url,
    decode_keys,
    encode_base64url,
    encrypt,
    private_text,
    public_text,
    read_private_key,
    vapid_header,
)
from tests.support.push_service import PushBrowser

# RFC 8291, Appendix A.
UA_PRIVATE = "q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94"
UA_PUBLIC = (
    "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4"
)
AUTH = "BTBZMqHH6r4Tts7J_aSIgg"
AS_PRIVATE = "yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw"
SALT = "DGv6ra1nlYgDCS1FRnbzlw"
BODY = (
    "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS"
    "6TlzAC8wEqKK6PBru3jl7A_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qu"
    "lcy4a-fN"
)


def key_of(text: str) -> ec.EllipticCurvePrivateKey:
    key = read_private_key(text)
    assert key is not None
    return key


def test_the_example_of_the_rfc() -> None:
    keys = decode_keys(UA_PUBLIC, AUTH)
    assert keys is not None
    message = b"When I grow up, I want to be a watermelon"
    body = encrypt(message, keys, decode_base64url(SALT), key_of(AS_PRIVATE))
    assert encode_base64url(body) == BODY
    browser = PushBrowser(key_of(UA_PRIVATE), decode_base64url(AUTH))
    assert browser.decrypt(body) == message


@given(st.binary(max_size=MESSAGE_BYTES), st.binary(min_size=16, max_size=16))
def test_what_is_encrypted_is_decrypted_by_the_browser_alone(message: bytes, salt: bytes) -> None:
    browser, other = PushBrowser(), PushBrowser()
    keys = BrowserKeys(decode_base64url(browser.p256dh), browser.auth)
    body = encrypt(message, keys, salt, ec.generate_private_key(ec.SECP256R1()))
    assert len(body) <= RECORD_BYTES
    assert browser.decrypt(body) == message
    with pytest.raises(InvalidTag):
        other.decrypt(body)


@pytest.mark.parametrize(
    ("p256dh", "auth"),
    [
        ("", AUTH),
        (UA_PUBLIC, ""),
        (UA_PUBLIC[:-4], AUTH),
        (UA_PUBLIC, AUTH + "AAAA"),
        ("é" + UA_PUBLIC[1:], AUTH),
        (UA_PUBLIC.replace("_", "/"), AUTH),
        (encode_base64url(b"\x04" + b"\x01" * 64), AUTH),
        (encode_base64url(b"\x02" + decode_base64url(UA_PUBLIC)[1:]), AUTH),
    ],
)
def test_keys_that_no_browser_has_are_refused(p256dh: str, auth: str) -> None:
    """A point that is not on the curve would reveal something of a long-lived key (CWE-347)."""
    assert decode_keys(p256dh, auth) is None


@pytest.mark.parametrize("text", ["", "x", "é", AS_PRIVATE[:-3], encode_base64url(b"\0" * 32)])
def test_a_text_that_is_no_private_key_is_refused(text: str) -> None:
    assert read_private_key(text) is None


def test_a_private_key_is_read_as_it_was_written() -> None:
    key = ec.derive_private_key(7, ec.SECP256R1())  # a short number keeps its zeros
    assert private_text(key_of(private_text(key))) == private_text(key)
    assert len(base64.urlsafe_b64decode(public_text(key) + "=")) == 65


def test_the_sender_is_who_signed() -> None:
    key = key_of(AS_PRIVATE)
    header = vapid_header("https://push.example.com", "mailto:ops@example.com", key, 1_000_000)
    scheme, token, public = header.split(" ")
    assert scheme == "vapid"
    assert public == f"k={public_text(key)}"
    claims = jwt.decode(
        token.removeprefix("t=").rstrip(","), key.public_key(), ["ES256"],
        audience="https://push.example.com", options={"verify_exp": False},
    )  # fmt: skip
    assert claims["sub"] == "mailto:ops@example.com"
    assert 0 < claims["exp"] - 1_000_000 <= 24 * 3600
