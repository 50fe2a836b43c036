"""The permissions of API keys, and the errors for invalid entries."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from realtime.api import methods
from realtime.api.key_entries import NAMED, PATTERNS_LIMIT, describe_unlisted, keys_of
from realtime.api.keys import BY_DEFAULT, KEY_METHODS, Key
from realtime.core.publication import SITE
from realtime.errors import ConfigurationError

SECRET = "a-secret-that-must-not-be-seen"
DIGEST = hashlib.sha256(SECRET.encode()).hexdigest()


def key(**fields: Any) -> Key:
    found = keys_of([{"name": "shop", "sha256": DIGEST} | fields]).find(SECRET)
    assert found is not None
    return found


@pytest.mark.parametrize("fields", [{}, {"methods": None, "fallbacks": None}])
def test_a_key_without_lists_may_only_publish(fields: dict[str, None]) -> None:
    """Such a key could close every user's connections, list all channels, and send mail."""
    plain = key(**fields)
    assert tuple(filter(plain.may_use, KEY_METHODS)) == (
        "publish",
        "broadcast",
        "batch",
        "position",
    )
    assert not plain.may_fall_back("email")
    assert plain.may_name("any:channel")
    assert plain.rate is None


def test_a_key_made_in_python_has_the_same_defaults() -> None:
    made = Key("made", b"")
    assert tuple(filter(made.may_use, KEY_METHODS)) == (*BY_DEFAULT, "position")
    assert not made.may_fall_back("email")


@pytest.mark.parametrize("method", ["publish", "broadcast", "events", "subscribe", "position"])
def test_a_key_that_may_publish_or_subscribe_may_read_positions(method: str) -> None:
    assert key(methods=[method]).may_use("position")


@pytest.mark.parametrize("method", ["info", "channels", "presence", "disconnect", "unsubscribe"])
def test_another_key_may_not_read_positions(method: str) -> None:
    assert not key(methods=[method]).may_use("position")


def test_keys_without_lists_are_reported() -> None:
    listed = {"methods": ["publish"], "fallbacks": []}
    assert (
        describe_unlisted(keys_of([{"name": "shop", "sha256": DIGEST, **listed}], and_one="k"))
        == ""
    )
    entries = [{"name": f"k{n}", "sha256": f"{n:064x}"} for n in range(NAMED + 2)]
    del listed["methods"]
    entries[0] |= listed
    told = describe_unlisted(keys_of(entries))
    assert told.endswith(f"{', '.join(f'k{n}' for n in range(NAMED))} and 2 more")
    assert "`methods`" in told
    assert "`fallbacks`" in told


@given(st.text(max_size=70))
@example("key:shop")
@example("staff:1")
@example("site")
def test_a_name_cannot_forge_a_scope(name: str) -> None:
    """A name with a separator could be the scope of another publisher, or of the site itself."""
    try:
        keys = keys_of([{"name": name, "sha256": DIGEST}])
    except ConfigurationError:
        return
    found = keys.find(SECRET)
    assert found is not None
    assert found.scope == f"key:{name}" != SITE
    assert ":" not in name
    assert " " not in name


def test_a_scope_outlives_a_secret() -> None:
    old, new = (keys_of([{"name": "shop", "sha256": d * 32}]) for d in ("ab", "cd"))
    [scope] = {key.scope for keys in (old, new) for key in keys._by_digest.values()}
    assert scope == "key:shop"


def test_the_methods_match_those_of_the_api() -> None:
    assert set(KEY_METHODS) == set(methods.METHODS)


def test_the_list_of_methods_is_complete() -> None:
    limited = key(methods=["info"])
    assert [method for method in KEY_METHODS if limited.may_use(method)] == ["info"]


@pytest.mark.parametrize(
    ("pattern", "covered", "others"),
    [
        ("orders:*", ["orders:7", "orders:", "orders:7#42"], ["orders", "orders:7:lines", "a:7"]),
        ("orders:**", ["orders:7", "orders:7:lines:1"], ["orders", "ordersx:7"]),
        ("*:news", ["public:news", ":news"], ["news", "a:b:news", "public:news2"]),
        ("*", ["news", "a.b"], ["public:news", ":"]),
        ("**", ["news", "public:news", ":", "a:b:c"], []),
        ("*:**", ["a:b", "a:b:c"], ["a"]),
        ("public:news", ["public:news"], ["public:new", "public:news:", "Public:news"]),
        ("a::b", ["a::b"], ["a:b", "a:x:b"]),
        ("a.c", ["a.c"], ["abc"]),
    ],
)
def test_patterns_match_channels(pattern: str, covered: list[str], others: list[str]) -> None:
    limited = key(channels=[pattern])
    assert [name for name in covered + others if limited.may_name(name)] == covered


_part = st.sampled_from(["a", "b", "ab", "a.", ""])
_names = st.lists(_part, min_size=1, max_size=5).map(":".join)
_patterns = st.builds(
    lambda parts, rest: [*parts, *rest] or ["*"],
    st.lists(st.one_of(_part, st.just("*")), max_size=4),
    st.sampled_from([[], ["**"]]),
).map(":".join)


def says(pattern: list[str], segments: list[str]) -> bool:
    """Match a pattern by its definition, without regard to speed."""
    if pattern == ["**"]:
        return len(segments) >= 1
    if not pattern or not segments:
        return pattern == segments
    return pattern[0] in ("*", segments[0]) and says(pattern[1:], segments[1:])


@given(st.lists(_patterns.filter(bool), min_size=1, max_size=3), _names)
@example(["a:**"], "a")
@example(["*"], "")
def test_patterns_grant_exactly_what_they_match(patterns: list[str], name: str) -> None:
    granted = any(says(pattern.split(":"), name.split(":")) for pattern in patterns)
    assert key(channels=patterns).may_name(name) == granted


def test_the_common_prefix_of_patterns_is_matched_once() -> None:
    """`/api/channels` compares 10,000 names with them: that blocked the loop for 4 s."""
    shared = ":".join(["*"] * 60)
    patterns = key(channels=[f"{shared}:{n}" for n in range(PATTERNS_LIMIT)]).channels
    assert patterns is not None
    depth, node = 0, patterns._root
    while len(node.children) == 1:
        depth, node = depth + 1, node.children["*"]
    assert (depth, len(node.children)) == (60, PATTERNS_LIMIT)
    assert not patterns.match(":".join(["a"] * 60) + ":x")
    assert patterns.match(":".join(["a"] * 60) + ":7")


def test_a_key_is_found_by_its_secret_only() -> None:
    keys = keys_of([{"name": "a", "sha256": DIGEST}, {"name": "b", "sha256": "0" * 64}])
    assert len(keys) == 2
    found = keys.find(SECRET)
    assert found is not None
    assert found.name == "a"
    for wrong in ("", DIGEST, SECRET[:-1], SECRET + " ", "\ud800", "ü", "x" * 1_000_000):
        assert keys.find(wrong) is None


def test_the_single_api_key_may_do_everything() -> None:
    keys = keys_of([{"name": "a", "sha256": DIGEST, "methods": ["publish"]}], and_one="k")
    master = keys.find("k")
    assert master is not None
    assert (master.name, master.channels) == ("default", None)
    assert all(map(master.may_use, KEY_METHODS))
    assert master.may_fall_back("email")


def test_json_text_is_equivalent_to_a_list() -> None:
    assert keys_of(json.dumps([{"name": "a", "sha256": DIGEST}])).find(SECRET) is not None


def test_digests_do_not_appear_in_representations() -> None:
    assert DIGEST not in repr(key())
    assert str(bytes.fromhex(DIGEST)) not in repr(key())


WRONG: dict[str, tuple[Any, str]] = {
    "no list": ({"name": "a"}, "must be a list"),
    "nothing": (None, "must be a list"),
    "no JSON": (f'[{{"name": "{SECRET}"', "is not JSON: line 1"),
    "deep JSON": ("[" * 100_000, "nested too deep"),
    "not UTF-8": (b'["\xff"]', "is not UTF-8"),
    "5000 digits": ("[" + "9" * 5000 + "]", "is not JSON"),
    "a text": ([SECRET], "key 1: must be an object"),
    "no name": ([{"sha256": DIGEST}], "key 1: name must be"),
    "a name with a space": ([{"name": SECRET + " ", "sha256": DIGEST}], "key 1: name must be"),
    "a long name": ([{"name": "n" * 65, "sha256": DIGEST}], "key 1: name must be"),
    "an unknown field": ([{"name": "a", "sha256": DIGEST, SECRET: 1}], "key 1 (a): unknown field"),
    "no digest": ([{"name": "a"}], "key 1 (a): sha256 must be"),
    "the secret for a digest": ([{"name": "a", "sha256": SECRET}], "key 1 (a): sha256 must be"),
    "a short digest": ([{"name": "a", "sha256": DIGEST[:-1]}], "key 1 (a): sha256 must be"),
    "the digest of nothing": (
        [{"name": "a", "sha256": hashlib.sha256(b"").hexdigest()}],
        "key 1 (a): sha256 is the hash of an empty secret",
    ),
    "a name twice": (
        [{"name": "a", "sha256": DIGEST}, {"name": "a", "sha256": "0" * 64}],
        "key 2 (a): another key has the same name",
    ),
    "a secret twice": (
        [{"name": "a", "sha256": DIGEST}, {"name": "b", "sha256": DIGEST.upper()}],
        "key 2 (b): another key has the same secret",
    ),
}
FIELDS: dict[str, tuple[Any, str]] = {
    "no channels": ({"channels": []}, "channels must be a list"),
    "one channel": ({"channels": "orders:*"}, "channels must be a list"),
    "too many channels": ({"channels": ["a"] * (PATTERNS_LIMIT + 1)}, "more than 100 channels"),
    "an empty pattern": ({"channels": ["a", ""]}, "channel 2 must have 1 to 255"),
    "a number": ({"channels": [1]}, "channel 1 must have 1 to 255"),
    "half a part": ({"channels": ["ord*"]}, "channel 1: segments between : must be"),
    "three stars": ({"channels": ["a:***"]}, "channel 1: segments between : must be"),
    "a space": ({"channels": ["a b"]}, "channel 1: segments between : must be"),
    "a regular expression": ({"channels": ["(a+)+$"]}, "channel 1: segments between : must be"),
    "the rest in the middle": ({"channels": ["**:a"]}, "** is allowed only as the last"),
    "no methods": ({"methods": []}, "methods must be a list of any of publish"),
    "a method that is none": ({"methods": ["publis"]}, "methods must be a list of any of publish"),
    "a list of lists": ({"methods": [["publish"]]}, "methods must be a list of any of publish"),
    "a batch of nothing": ({"methods": ["batch"]}, "batch also requires the methods"),
    "no rate": ({"rate": 0}, "rate must be a number from 0.001"),
    "a negative rate": ({"rate": -1}, "rate must be a number"),
    "a rate of NaN": ({"rate": float("nan")}, "rate must be a number"),
    "an endless rate": ({"rate": float("inf")}, "rate must be a number"),
    "a huge rate": ({"rate": 10**400}, "rate must be a number"),
    "a true rate": ({"rate": True}, "rate must be a number"),
    "a rate in words": ({"rate": "100"}, "rate must be a number"),
}


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        *WRONG.values(),
        *(([{"name": "a", "sha256": DIGEST} | f], f"key 1 (a): {p}") for f, p in FIELDS.values()),
    ],
    ids=[*WRONG, *FIELDS],
)
def test_an_error_names_the_field_and_not_its_value(entries: Any, problem: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        keys_of(entries)
    said = caught.value.problem.replace("key 1 (a): key 1 (a)", "key 1 (a)")
    assert problem.split(": ", 1)[0] in said
    assert problem.rsplit(": ", 1)[-1] in said
    assert caught.value.setting == "REALTIME_API_KEYS"
    assert SECRET not in str(caught.value)
    assert DIGEST not in str(caught.value).lower()
    assert str(caught.value).isprintable()


def test_the_name_of_the_single_api_key_is_reserved() -> None:
    with pytest.raises(
        ConfigurationError, match=r"key 1 \(default\): another key has the same name"
    ):
        keys_of([{"name": "default", "sha256": DIGEST}], and_one="k")
