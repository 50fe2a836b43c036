"""The permissions of namespaces, and the errors for invalid configurations."""

from __future__ import annotations

from itertools import product
from types import MappingProxyType

import pytest

from realtime.core.identity import ANONYMOUS, Grant, Identity
from realtime.core.namespaces import (
    BUILT_IN,
    CLOSED,
    FOR_MEMBERS,
    FOR_OTHERS,
    OTHER_GRANT,
    TOO_LONG,
    UNKNOWN_NAMESPACE,
    Namespace,
    Namespaces,
    Overflow,
)
from realtime.errors import ConfigurationError, InvalidName

FLAGS = (
    "allow_subscribe_for_client",
    "allow_subscribe_for_anonymous",
    "allow_publish_for_client",
    "allow_publish_for_subscriber",
    "allow_publish_for_anonymous",
)


def problem(configured: object) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        Namespaces(configured)
    return caught.value


def test_a_new_namespace_forbids_everything_and_reports_overflow_as_gaps():
    namespaces = Namespaces({"n": {}})
    assert namespaces.get("n:x") == Namespace(*[False] * 11, Overflow.GAP)
    assert not namespaces.may_subscribe("n:x")
    assert not namespaces.may_publish("n:x", subscribed=True)


@pytest.mark.parametrize("identity", [ANONYMOUS, Identity("42")], ids=["anonymous", "known"])
@pytest.mark.parametrize("values", [*product([False, True], repeat=5)])
def test_the_permissions_match_this_table(values, identity):
    """centrifugal/centrifugo, internal/client/handler.go, OnPublish."""
    client, anonymous, publish_client, publish_subscriber, publish_anonymous = values
    namespaces = Namespaces({"n": dict(zip(FLAGS, values, strict=True))})
    subscribes = client and (anonymous or not identity.is_anonymous)
    is_eligible = publish_anonymous or not identity.is_anonymous
    publishes = publish_client and subscribes and is_eligible
    says = publish_subscriber and is_eligible
    assert namespaces.may_subscribe("n:x", identity) is (subscribes or None)
    assert namespaces.may_publish("n:x", identity, subscribed=False) is (publishes or None)
    assert namespaces.may_publish("n:x", identity, subscribed=True) is (says or publishes or None)


@pytest.mark.parametrize(
    ("channel", "identity", "grant", "why"),
    [
        ("nwes:today", ANONYMOUS, None, UNKNOWN_NAMESPACE),
        ("nwes:#7", ANONYMOUS, None, UNKNOWN_NAMESPACE),
        ("n:" + "x" * 40, ANONYMOUS, None, TOO_LONG),
        ("user:#7", Identity("42"), None, FOR_OTHERS),
        ("user:#", Identity("42"), None, FOR_OTHERS),
        ("n:x", Identity("42"), Grant("n:y", "42", None), OTHER_GRANT),
        ("n:x", Identity("42"), Grant("n:x", "7", None), OTHER_GRANT),
        ("members:x", ANONYMOUS, None, FOR_MEMBERS),
        ("n:x", ANONYMOUS, None, CLOSED),
        ("n:x", Identity("42"), None, CLOSED),
    ],
)
def test_the_log_tells_which_rule_has_refused(channel, identity, grant, why):
    namespaces = Namespaces(
        {"n": {}, "members": {"allow_subscribe_for_client": True}}, channel_characters=32
    )
    assert not namespaces.may_subscribe(channel, identity, grant)
    assert namespaces.why_not_subscribe(channel, identity, grant) == why


@pytest.mark.parametrize("identity", [ANONYMOUS, Identity("42")], ids=["anonymous", "known"])
@pytest.mark.parametrize("values", [*product([False, True], repeat=3)])
def test_the_presence_permissions_match_this_table(values, identity):
    """Centrifugo's rule: `hasAccessToPresence` in its internal/client/handler.go."""
    client, subscriber, anonymous = values
    options = {
        "allow_presence_for_client": client,
        "allow_presence_for_subscriber": subscriber,
        "allow_presence_for_anonymous": anonymous,
    }
    namespaces = Namespaces({"n": options})
    is_eligible = anonymous or not identity.is_anonymous
    looks = namespaces.may_see_members("n:x", identity, subscribed=False)
    assert looks is (client and is_eligible)
    looks = namespaces.may_see_members("n:x", identity, subscribed=True)
    assert looks is ((client or subscriber) and is_eligible)
    assert not namespaces.may_see_members("absent:x", identity, subscribed=False)


def test_presence_of_a_user_channel_is_visible_only_to_its_users():
    namespaces = Namespaces({"n": {"allow_presence_for_client": True}})
    assert namespaces.may_see_members("n:x#42", MINE, subscribed=False)
    assert not namespaces.may_see_members("n:x#43", MINE, subscribed=False)


def test_unknown_namespaces_are_refused_like_forbidden_ones():
    namespaces = Namespaces({})
    assert namespaces.get("absent:x") is None
    assert not namespaces.may_subscribe("absent:x")
    assert not namespaces.may_publish("absent:x", subscribed=True)


def test_an_anonymous_client_gets_no_channel_of_a_user():
    namespaces = Namespaces({})
    assert namespaces.may_subscribe("public:news")
    assert not namespaces.may_subscribe("public:news#42")


@pytest.mark.parametrize(
    ("channel", "subscribe", "publish"),
    [("news", False, False), ("public:news", True, False), ("user:news", False, False)],
)
def test_the_built_in_namespaces(channel, subscribe, publish):
    namespaces = Namespaces({})
    assert bool(namespaces.may_subscribe(channel)) == subscribe
    assert bool(namespaces.may_publish(channel, subscribed=True)) == publish
    assert not namespaces.may_publish(channel, subscribed=False)


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("user", ["", "42"])
@pytest.mark.parametrize("subscribed", [True, False])
def test_a_client_publishes_in_a_project_that_opened_no_namespace(name, user, subscribed):
    """Issue 15: a built-in chat let anyone publish, in every project that installed the library."""
    channel = f"{name}:room" if name else "room"
    assert not Namespaces({}).may_publish(channel, Identity(user), subscribed=subscribed)


def test_a_built_in_namespace_can_be_replaced():
    namespaces = Namespaces({"public": {}, "": {"overflow": "latest"}})
    assert not namespaces.may_subscribe("public:news")
    assert namespaces.get("news").overflow is Overflow.LATEST
    assert BUILT_IN["public"].allow_subscribe_for_client


def test_a_publisher_learns_that_a_namespace_is_missing():
    namespaces = Namespaces({})
    assert namespaces.for_publishing("public:x") is namespaces.get("public:x")
    with pytest.raises(InvalidName, match="the namespace 'absent' is not configured") as caught:
        namespaces.for_publishing("absent:x")
    assert caught.value.code == "invalid_channel"


@pytest.mark.parametrize("overflow", [*Overflow, *map(str, Overflow)])
def test_every_overflow_policy_can_be_named(overflow):
    namespaces = Namespaces({"n": MappingProxyType({"overflow": overflow})})
    assert namespaces.get("n:x").overflow is Overflow(overflow)


@pytest.mark.parametrize("name", ["Chat", "a:b", "é", 1, None, "a\n"])
def test_an_impossible_namespace_name_is_an_error(name):
    assert "is not a valid name" in problem({name: {}}).problem


@pytest.mark.parametrize("options", [None, "gap", ["overflow"], True])
def test_options_must_be_an_object(options):
    assert problem({"n": options}).problem == "'n' must be an object of options"


@pytest.mark.parametrize("key", ["presense", "", 1])
def test_the_error_for_an_unknown_option_names_the_known_ones(key):
    error = problem({"n": {key: True}})
    assert error.setting == "REALTIME_NAMESPACES['n']"
    assert "allow_subscribe_for_client" in error.problem


@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize("value", [1, "true", None, []])
def test_only_true_and_false_are_flags(flag, value):
    assert problem({"n": {flag: value}}).problem.startswith(f"{flag} must be true or false")


@pytest.mark.parametrize("value", ["Gap", "", None, [], {}, True])
def test_the_error_for_an_unknown_overflow_policy_names_the_known_ones(value):
    error = problem({"n": {"overflow": value}})
    assert error.problem == "overflow must be one of gap, latest, disconnect"


MINE = Identity("42")


@pytest.mark.parametrize(
    ("channel", "identity", "grant", "allowed"),
    [
        ("absent:x", MINE, Grant("absent:x", "42", 1), False),
        ("news#42", MINE, None, True),
        ("news#42,43", MINE, None, True),
        ("news#43", MINE, None, False),
        ("news#43", MINE, Grant("news#43", "42", 1), False),
        ("news#", ANONYMOUS, None, False),
        ("public:news#", ANONYMOUS, None, False),
        ("private", MINE, None, None),
        ("private", MINE, Grant("private", "42", 1), True),
        ("private", MINE, Grant("other", "42", 1), False),
        ("private", MINE, Grant("private", "43", 1), False),
        ("private", ANONYMOUS, Grant("private", "", 1), True),
        ("private", ANONYMOUS, Grant("private", "42", 1), False),
        ("public:news", MINE, Grant("other", "42", 1), False),
        ("members:x", MINE, None, True),
        ("members:x", ANONYMOUS, None, None),
    ],
)
def test_the_first_rule_that_applies_decides(
    channel: str, identity: Identity, grant: Grant | None, allowed: bool | None
) -> None:
    namespaces = Namespaces({"members": {"allow_subscribe_for_client": True}})
    assert namespaces.may_subscribe(channel, identity, grant) is allowed


def test_a_client_is_served_its_personal_channel_and_those_of_its_token() -> None:
    namespaces = Namespaces({}, personal="user:#")
    assert namespaces.server_side_channels(MINE) == ["user:#42"]
    assert namespaces.server_side_channels(Identity("42", channels=("a", "no:b", "user:#42"))) == [
        "user:#42",
        "a",
    ]
    assert namespaces.server_side_channels(ANONYMOUS) == []
    assert namespaces.server_side_channels(Identity("a,b")) == ["user:#,a=2Cb"]
    assert namespaces.server_side_channels(Identity("é" * 128)) == []
    assert Namespaces({}).server_side_channels(MINE) == []
    with pytest.raises(ConfigurationError, match="'absent', which is not configured"):
        Namespaces({}, personal="absent:#")


def test_anonymous_clients_lack_permissions_for_clients() -> None:
    """Centrifugo, allow_presence_for_anonymous and allow_publish_for_anonymous."""
    options = {"allow_subscribe_for_client": True, "allow_publish_for_client": True}
    namespaces = Namespaces({"members": options})
    assert namespaces.may_publish("members:x", MINE, subscribed=False)
    assert not namespaces.may_publish("members:x", ANONYMOUS, subscribed=False)


def test_a_channel_with_a_longer_name_than_the_site_allows_does_not_exist():
    namespaces = Namespaces({}, channel_characters=16)
    fits, long = "public:" + "x" * 9, "public:" + "x" * 10
    assert namespaces.may_subscribe(fits)
    assert namespaces.may_subscribe(long) is False
    assert namespaces.may_publish(long, subscribed=True) is False
    assert namespaces.for_publishing(fits)
    with pytest.raises(InvalidName, match="at most 16 characters"):
        namespaces.for_publishing(long)
