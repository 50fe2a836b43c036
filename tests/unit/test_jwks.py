"""A set of public keys: each for one algorithm, and none that could sign a token."""

from __future__ import annotations

import json
import re
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from realtime.errors import ConfigurationError, InvalidToken
from realtime.identity.jwks import (
    KEYS_LIMIT,
    KID_LIMIT,
    SET_BYTES,
    keys_of_set,
    read_set,
)
from realtime.identity.tokens import Tokens

NOW = 1_800_000_000.0
RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())


def jwk(key: Any, kid: Any = "a", **more: Any) -> dict[str, Any]:
    algorithm = {
        rsa.RSAPublicKey: RSAAlgorithm,
        rsa.RSAPrivateKey: RSAAlgorithm,
        ed25519.Ed25519PublicKey: OKPAlgorithm,
    }
    kind = next((a for k, a in algorithm.items() if isinstance(key, k)), ECAlgorithm)
    return {**kind.to_jwk(key, as_dict=True), "kid": kid, **more}  # type: ignore[call-overload]


RSA_JWK, EC_JWK = jwk(RSA_KEY.public_key(), "rsa"), jwk(EC_KEY.public_key(), "ec")
GOOD = {"keys": [RSA_JWK, EC_JWK]}
TOKENS = Tokens({"HS256": "s" * 64}, key_named=keys_of_set(GOOD).get)


def token(key: Any, algorithm: str, kid: Any) -> str:
    header = {} if kid is None else {"kid": kid}
    return jwt.encode({"sub": "42", "exp": NOW + 60}, key, algorithm, headers=header)


@pytest.mark.parametrize("given_as", [dict, json.dumps, lambda s: json.dumps(s).encode()])
def test_a_set_maps_key_ids_to_keys_with_one_algorithm_each(given_as: Any) -> None:
    found = keys_of_set(given_as(GOOD))
    assert {name: key[0] for name, key in found.items()} == {"rsa": "RS256", "ec": "ES256"}


@pytest.mark.parametrize(
    ("key", "algorithm", "kid"),
    [(RSA_KEY, "RS256", "rsa"), (EC_KEY, "ES256", "ec"), ("s" * 64, "HS256", "rsa")],
)
def test_a_token_is_checked_with_the_key_that_it_names(key: Any, algorithm: str, kid: str) -> None:
    """HS256 has a single secret here; the kid of its tokens is ignored."""
    assert TOKENS.verify_identity(token(key, algorithm, kid), NOW).user == "42"


OTHER = rsa.generate_private_key(65537, 2048)


@pytest.mark.parametrize(
    "shown",
    [
        token(RSA_KEY, "RS256", "unknown"),
        token(RSA_KEY, "RS256", "ec"),
        token(EC_KEY, "ES256", "rsa"),
        token(RSA_KEY, "RS512", "rsa"),
        token(RSA_KEY, "RS256", None),
        token(OTHER, "RS256", "rsa"),
        token(RSA_KEY, "PS256", "rsa"),
        token(ec.generate_private_key(ec.SECP256R1()), "ES256", "ec"),
        # Its modulus is public: an attacker who could choose the algorithm could sign tokens with
        # it.
        token(RSA_JWK["n"], "HS256", "rsa"),
    ],
)
def test_no_key_is_used_for_another_purpose(shown: str) -> None:
    with pytest.raises(InvalidToken):
        TOKENS.verify_identity(shown, NOW)


def test_a_key_without_an_id_verifies_tokens_without_one() -> None:
    """While a provider migrates to a set, it still has valid tokens that name no key."""
    both = Tokens({"RS256": OTHER.public_key()}, key_named=keys_of_set(GOOD).get)
    assert both.verify_identity(token(OTHER, "RS256", None), NOW).user == "42"
    assert both.verify_identity(token(RSA_KEY, "RS256", "rsa"), NOW).user == "42"
    for shown in (token(OTHER, "RS256", "rsa"), token(OTHER, "RS256", "other")):
        with pytest.raises(InvalidToken):
            both.verify_identity(shown, NOW)


PASSED_OVER = {
    "for encryption": jwk(OTHER.public_key(), use="enc"),
    "for encryption by its operations": jwk(OTHER.public_key(), key_ops=["encrypt"]),
    "for another algorithm": jwk(OTHER.public_key(), alg="RSA-OAEP"),
    "with a longer hash": jwk(OTHER.public_key(), alg="RS512"),
    "of another curve": jwk(ec.generate_private_key(ec.SECP384R1()).public_key()),
    "Ed25519": jwk(ed25519.Ed25519PrivateKey.generate().public_key()),
    "of a kind that is not invented yet": {"kid": "a", "kty": "PQC"},
}


@pytest.mark.parametrize("entry", PASSED_OVER.values(), ids=PASSED_OVER.keys())
def test_keys_for_other_uses_are_ignored(entry: dict[str, Any]) -> None:
    """Keycloak lists an encryption key next to the other; RFC 7517 §5 says to ignore it."""
    assert keys_of_set({"keys": [entry, EC_JWK]}).keys() == {"ec"}
    with pytest.raises(ConfigurationError, match="contains no key for RS256"):
        keys_of_set({"keys": [entry]})


WRONG = {
    "private RSA": (jwk(RSA_KEY), "is not public"),
    "private EC": (jwk(EC_KEY), "is not public"),
    "private Ed25519": ({"kid": "a", "kty": "OKP", "d": "x"}, "is not public"),
    "symmetric": ({"kid": "a", "kty": "oct", "k": "c2VjcmV0"}, "is not public"),
    "small": (jwk(rsa.generate_private_key(65537, 1024).public_key()), "fewer than 2048 bits"),
    "without an id": ({**RSA_JWK, "kid": None}, "key 1 has no kid"),
    "with a number as its id": ({**RSA_JWK, "kid": 7}, "key 1 has no kid"),
    "with a long id": ({**RSA_JWK, "kid": "k" * (KID_LIMIT + 1)}, "key 1 has no kid"),
    "without a modulus": ({"kid": "a", "kty": "RSA", "e": "AQAB"}, "'a' cannot be read"),
    "off the curve": ({**EC_JWK, "y": EC_JWK["x"]}, "'ec' cannot be read"),
    "no object": (7, "key 1 is not an object"),
}


@pytest.mark.parametrize(("entry", "problem"), WRONG.values(), ids=WRONG.keys())
def test_a_forbidden_key_is_named(entry: Any, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem) as caught:
        keys_of_set({"keys": [entry]})
    assert str(caught.value).startswith("REALTIME_TOKEN_JWKS: ")
    if isinstance(entry, dict):
        parts = [entry[part] for part in ("d", "k", "n") if part in entry and len(entry[part]) > 1]
        assert not any(part in str(caught.value) for part in parts)


@pytest.mark.parametrize(("entry", "problem"), WRONG.values(), ids=WRONG.keys())
def test_a_forbidden_key_does_not_affect_the_others(entry: Any, problem: str) -> None:
    keys, [flaw] = read_set({"keys": [entry, RSA_JWK]})
    assert keys.keys() == {"rsa"}
    assert re.search(problem, str(flaw))


@pytest.mark.parametrize("count", [2, 3])
def test_keys_with_a_duplicate_id_are_not_used(count: int) -> None:
    """Otherwise anyone who can add a key to the set could replace another one."""
    keys, flaws = read_set({"keys": [EC_JWK] * count + [RSA_JWK]})
    assert keys.keys() == {"rsa"}
    assert len(flaws) == count - 1


def test_an_empty_set_withdraws_all_keys() -> None:
    assert read_set({"keys": []}) == ({}, [])


@pytest.mark.parametrize(
    ("given_set", "problem"),
    [
        ("{", "is not JSON"),
        (b"\xff", "is not JSON"),
        ("[]", "must be a set of keys"),
        ({}, "must be a set of keys"),
        ({"keys": {}}, "must be a set of keys"),
        ({"keys": []}, "contains no key for RS256"),
        ({"keys": [EC_JWK] * 2}, "two keys have the kid 'ec'"),
        ({"keys": [EC_JWK] * (KEYS_LIMIT + 1)}, "the limit is 32"),
        ("[" * SET_BYTES, "is not JSON"),
        (" " * (SET_BYTES + 1), "has more than 65536 bytes"),
    ],
)
def test_an_invalid_set_is_refused_with_its_reason(given_set: Any, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        keys_of_set(given_set)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
entries = st.dictionaries(
    st.sampled_from(["kid", "kty", "alg", "use", "key_ops", "n", "e", "crv", "x", "y"]),
    st.sampled_from(["RSA", "EC", "P-256", "AQAB", "RS256", "sig", RSA_JWK["n"], EC_JWK["x"]])
    | json_values,
)


@given(st.fixed_dictionaries({"keys": st.lists(entries | json_values, max_size=4)}) | json_values)
def test_any_input_is_a_key_set_or_refused(given_set: Any) -> None:
    try:
        keys = keys_of_set(json.dumps(given_set))
    except ConfigurationError:
        return
    assert keys
    assert {algorithm for algorithm, _ in keys.values()} <= {"RS256", "ES256"}
