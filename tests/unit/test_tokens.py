"""A token proves an identity, or it is refused."""

from __future__ import annotations

import base64
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from realtime.core.identity import USER_LIMIT, Grant, Identity, UserTable
from realtime.errors import InvalidToken, TokenExpired
from realtime.identity.tokens import (
    CHANNELS_LIMIT,
    INFO_BYTES,
    LEEWAY_SECONDS,
    MARK_LIMIT,
    TOKEN_CHARACTERS,
    Tokens,
)

SECRET = "s" * 64
NOW = 1_800_000_000.0
RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
TOKENS = Tokens({"HS256": SECRET, "RS256": RSA_KEY.public_key(), "ES256": EC_KEY.public_key()})
PEM = RSA_KEY.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)


def token(key: Any = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    return jwt.encode({"sub": "42", "exp": NOW + 60, **claims}, key, algorithm)


def unsigned(header: dict[str, Any], **claims: Any) -> str:
    parts = [header, {"sub": "42", "exp": NOW + 60, **claims}]
    text = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in parts]
    return b".".join([*text, b""]).decode()


@pytest.mark.parametrize(
    ("key", "algorithm"), [(SECRET, "HS256"), (RSA_KEY, "RS256"), (EC_KEY, "ES256")]
)
def test_a_token_has_a_user_and_an_expiry(key: Any, algorithm: str) -> None:
    assert TOKENS.verify_identity(token(key, algorithm), NOW) == Identity("42", NOW + 60)


def test_a_subscription_token_grants_one_channel() -> None:
    assert TOKENS.verify_grant(token(channel="private:a"), NOW) == Grant(
        "private:a", "42", NOW + 60
    )


@pytest.mark.parametrize(
    "claims",
    [
        {"sub": "service.1"},
        {"sub": "service."},
        {"sub": "service.1", "channel": "closed"},
        {"channels": ["news", "user:#service.1"]},
        {"channels": ["talk#42,service.1"]},
    ],
)
def test_a_token_claims_a_user_of_the_service_s_own_table(claims: dict[str, Any]) -> None:
    refused: list[InvalidToken] = []
    apart = Tokens({"HS256": SECRET}, own_users=UserTable("service."), refused=refused.append)
    read = "verify_grant" if "channel" in claims else "verify_identity"
    with pytest.raises(InvalidToken, match="names a user of the service's own table"):
        getattr(apart, read)(token(**claims), NOW)
    assert len(refused) == 1
    assert getattr(TOKENS, read)(token(**claims), NOW), "a host with its own users"


@pytest.mark.parametrize("user", ["1", "service", "Service.1", "a.service.1", ""])
def test_a_token_claims_any_other_user(user: str) -> None:
    apart = Tokens({"HS256": SECRET}, own_users=UserTable("service."))
    assert apart.verify_identity(token(sub=user, channels=[f"user:#{user}"]), NOW).user == user


@given(prefix=st.from_regex(r"([a-z]{1,31}\.)?", fullmatch=True), key=st.text())
def test_an_id_leads_back_to_its_key_and_to_no_other_table(prefix: str, key: str) -> None:
    table, other = UserTable(prefix), UserTable("service.")
    user = table.id_of(key)
    assert table.key_of(user) == key
    if prefix and prefix != other.prefix:
        assert other.key_of(user) is None
        assert not other.has(user)


def test_a_subscription_token_carries_channel_info() -> None:
    shown = token(channel="a", info={"role": "guest"})
    assert TOKENS.verify_grant(shown, NOW).info == '{"role":"guest"}'
    with pytest.raises(InvalidToken):
        TOKENS.verify_grant(token(channel="a", info="x" * 5000), NOW)


@pytest.mark.parametrize("channel", [None, "", "a b", 7, ["a"]])
def test_a_subscription_token_names_a_channel(channel: Any) -> None:
    with pytest.raises(InvalidToken):
        TOKENS.verify_grant(token(channel=channel), NOW)


def test_an_expired_token_has_a_valid_signature() -> None:
    shown = token(exp=NOW - LEEWAY_SECONDS - 1)
    with pytest.raises(TokenExpired):
        TOKENS.verify_identity(shown, NOW)
    TOKENS.verify_identity(token(exp=NOW - LEEWAY_SECONDS + 1), NOW)


def test_a_forged_token_is_not_called_expired() -> None:
    """Otherwise a stock SDK would keep asking its site for another token."""
    with pytest.raises(InvalidToken):
        TOKENS.verify_identity(token("x" * 64, exp=1), NOW)


@pytest.mark.parametrize(
    ("info", "text"),
    [
        ({"name": "Zoë", "n": [1, None]}, '{"name":"Zoë","n":[1,null]}'),
        ("me", '"me"'),
        (0, "0"),
        (False, "false"),
        (None, ""),
        ("x" * (INFO_BYTES - 2), f'"{"x" * (INFO_BYTES - 2)}"'),
    ],
)
def test_token_info_is_compact_json(info: Any, text: str) -> None:
    assert TOKENS.verify_identity(token(info=info), NOW).info == text


def test_a_token_has_channels_a_session_and_a_stamp() -> None:
    shown = token(channels=["a", "b:c", "a"], session="s" * MARK_LIMIT, stamp="t" * MARK_LIMIT)
    identity = TOKENS.verify_identity(shown, NOW)
    assert identity.channels == ("a", "b:c")
    assert (identity.session, identity.stamp) == ("s" * MARK_LIMIT, "t" * MARK_LIMIT)
    plain = TOKENS.verify_identity(token(channels=None, session=None), NOW)
    assert (plain.channels, plain.session, plain.stamp) == ((), "", "")


@pytest.mark.parametrize("iat", [NOW + 1e6, 1e300, "then", None])
def test_the_issue_time_is_ignored(iat: Any) -> None:
    """RFC 7519 §4.1.6 has no rule for it; a token that is not valid yet says so with nbf."""
    assert TOKENS.verify_identity(token(iat=iat), NOW).user == "42"


ODD = {"a number": 7, "text": "x", "true": True, "a list": ["x"], "an object": {"x": 1}}
"""One value of each JSON type except null."""
TAKEN = {
    # claim: the types of `ODD` that are accepted
    "sub": {"text"},
    "exp": {"a number"},  # in the past, which gets another answer
    "nbf": {"a number"},
    "aud": set(ODD),  # no audience is configured
    "info": set(ODD),
    "channels": {"a list"},
    "channel": set(),  # only used in subscription tokens
    "session": {"text"},
    "stamp": {"text"},
    "iat": set(ODD),
    "iss": set(ODD),
    "jti": set(ODD),
    # Claims of Centrifugo that we do not support
    "subs": set(ODD),
    "meta": set(ODD),
    "b64info": set(ODD),
    "expire_at": set(ODD),
}


def signed(claims: dict[str, Any]) -> str:
    """Sign what PyJWT would refuse: it checks the types of some claims."""
    return jwt.PyJWS().encode(json.dumps(claims).encode(), SECRET, "HS256")


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("claim", TAKEN)
def test_each_claim_is_checked_by_our_rule_instead_of_the_library(claim: str, kind: str) -> None:
    """PyJWT ≥ 2.10 refuses a `jti` or `sub` that is not a string (jpadilla/pyjwt#1005, 2.10.0)."""
    shown = signed({"sub": "42", "exp": NOW + 60, claim: ODD[kind]})
    if kind in TAKEN[claim] and claim != "exp":
        assert TOKENS.verify_identity(shown, NOW).user == ("x" if claim == "sub" else "42")
    else:
        with pytest.raises(TokenExpired if kind in TAKEN[claim] else InvalidToken):
            TOKENS.verify_identity(shown, NOW)


IGNORED_BY_GRANTS = {"channels", "session", "stamp"}  # they are about a connection


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("claim", sorted(TAKEN.keys() - {"channel", "exp"}))
def test_each_claim_of_a_subscription_token_is_checked_by_our_rule(claim: str, kind: str) -> None:
    """jpadilla/pyjwt#1005, and yunojuno/django-request-token#68, whose tokens it broke."""
    shown = signed({"sub": "42", "exp": NOW + 60, "channel": "a", claim: ODD[kind]})
    if kind in TAKEN[claim] or claim in IGNORED_BY_GRANTS:
        assert TOKENS.verify_grant(shown, NOW).user == ("x" if claim == "sub" else "42")
    else:
        with pytest.raises(InvalidToken):
            TOKENS.verify_grant(shown, NOW)


@pytest.mark.parametrize("claim", sorted(TAKEN.keys() - {"exp"}))
def test_a_null_claim_counts_as_absent(claim: str) -> None:
    # PyJWT checks `jti` if it is there, and calls int() on `nbf`; vimalloc/flask-jwt-extended#384
    # reports tokens with a null `nbf`.
    without = {"sub": "42", "exp": NOW + 60}
    without.pop(claim, None)
    assert TOKENS.verify_identity(signed({**without, claim: None}), NOW) == TOKENS.verify_identity(
        signed(without), NOW
    )


ENDLESS = {"no expiry": signed({"sub": "42"}), "an expiry that is null": signed({"exp": None})}


@pytest.mark.parametrize("shown", ENDLESS.values(), ids=ENDLESS)
def test_a_token_without_an_expiry_never_expires_where_allowed(shown: str) -> None:
    """As in Centrifugo, whose own tests have such a token (token_verifier_jwt_test.go)."""
    optional = Tokens({"HS256": SECRET}, must_expire=False)
    identity = optional.verify_identity(shown, NOW)
    assert (identity.expires_at, identity.ttl_seconds(NOW)) == (None, None)
    grant = optional.verify_grant(signed({"channel": "a"}), NOW)
    assert (grant.expires_at, grant.ttl_seconds(NOW)) == (None, None)
    with pytest.raises(InvalidToken, match="exp"):
        TOKENS.verify_identity(shown, NOW)


@pytest.mark.parametrize("exp", [True, str(NOW), [], 1e300])
def test_an_invalid_expiry_does_not_count_as_absent(exp: Any) -> None:
    optional = Tokens({"HS256": SECRET}, must_expire=False)
    with pytest.raises(InvalidToken, match="is not a number of seconds"):
        optional.verify_identity(signed({"sub": "42", "exp": exp}), NOW)


FORGED = {
    "another secret": token("x" * 64),
    "no signature": unsigned({"alg": "none"}),
    "no signature, None": unsigned({"alg": "None"}),
    "no algorithm": unsigned({}),
    "an algorithm that is a list": unsigned({"alg": ["HS256"]}),
    "another algorithm": token(algorithm="HS384"),
    "the public key as a secret": jwt.encode(
        {"sub": "42", "exp": NOW + 60}, base64.b64encode(PEM), "HS256"
    ),
    "another key": token(rsa.generate_private_key(65537, 2048), "RS256"),
    "another curve's key": token(ec.generate_private_key(ec.SECP256R1()), "ES256"),
    "a subscription token": token(channel="public:a"),
    "no expiry": jwt.encode({"sub": "42"}, SECRET, "HS256"),
    "an expiry that is text": token(exp=str(NOW + 60)),
    "an expiry that is true": token(exp=True),
    "an expiry beyond all time": token(exp=1e300),
    "not valid yet": token(nbf=NOW + LEEWAY_SECONDS + 1),
    "a beginning that is text": token(nbf="now"),
    "a user that is too long": token(sub="4" * (USER_LIMIT + 1)),
    "a long info": token(info="x" * (INFO_BYTES - 1)),
    "an info that is not JSON": token(info=float("nan")),
    "an info that is no text": token(info="\ud800"),
    "a deep info": token(info=json.loads("[" * 40 + "]" * 40)),
    "channels that are text": token(channels="a"),
    "channels that are none": token(channels=["a", "a b"]),
    "a channel that is a number": token(channels=[7]),
    "channels without end": token(channels=[f"c{n}" for n in range(CHANNELS_LIMIT + 1)]),
    "channels that are false": token(channels=False),
    "a session that is a number": token(session=7),
    "a long session": token(session="s" * (MARK_LIMIT + 1)),
    "a stamp that is a list": token(stamp=["a"]),
    "a long stamp": token(stamp="s" * (MARK_LIMIT + 1)),
    "a header that must be understood": jwt.encode(
        {"sub": "42", "exp": NOW + 60}, SECRET, "HS256", headers={"crit": ["x"], "x": 1}
    ),
    "one that PyJWT understands": jwt.encode(
        {"sub": "42", "exp": NOW + 60}, SECRET, "HS256", headers={"crit": ["b64"], "b64": True}
    ),
    "an id that is no text": unsigned({"alg": "HS256", "kid": ["a"]}),
    "too long": token(info="x" * TOKEN_CHARACTERS),
    "nothing": "",
    "dots": "..",
    "not ASCII": "é.é.é",
    "no object": jwt.encode({}, SECRET, "HS256").replace(".e30.", ".W10."),
    "deep": ".".join(["e30", base64.urlsafe_b64encode(b"[" * 4000).decode(), ""]),
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED.keys())
def test_unverifiable_tokens_are_refused(forged: str) -> None:
    with pytest.raises(InvalidToken):
        TOKENS.verify_identity(forged, NOW)


def test_without_a_key_every_token_is_refused() -> None:
    with pytest.raises(InvalidToken):
        Tokens({}).verify_identity(token(), NOW)


@pytest.mark.parametrize(
    ("aud", "good"),
    [("us", True), (["them", "us"], True), ("them", False), ([], False), (None, False), (7, False)],
)
def test_the_audience_must_match_where_one_is_set(aud: Any, good: bool) -> None:
    ours = Tokens({"HS256": SECRET}, audience="us")
    shown = token(aud=aud) if aud is not None else token()
    if good:
        assert ours.verify_identity(shown, NOW).user == "42"
    else:
        with pytest.raises(InvalidToken):
            ours.verify_identity(shown, NOW)
    assert TOKENS.verify_identity(shown, NOW).user == "42", "without an audience, it is not checked"


@given(st.text(max_size=200))
def test_any_input_is_a_valid_token_or_refused(shown: str) -> None:
    with pytest.raises(InvalidToken):
        TOKENS.verify_identity(shown, NOW)


@given(st.integers(0, 200), st.characters(codec="ascii"))
def test_a_token_with_a_changed_character_is_refused(at: int, character: str) -> None:
    good = token()
    at %= len(good)
    changed = good[:at] + character + good[at + 1 :]
    try:
        identity = TOKENS.verify_identity(changed, NOW)
    except InvalidToken:
        return
    # The last character of a base64 part has unused bits.
    assert identity == Identity("42", NOW + 60)
