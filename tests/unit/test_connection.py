"""What one client may do: case by case, and as a machine that answers everything once, in order."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from realtime.codes import BAD_REQUEST, EXPIRED, INVALID_TOKEN, METHOD_NOT_FOUND, Close, Refusal
from realtime.connection import (
    STRIKES,
    Connection,
    Decision,
    End,
    Greet,
    Join,
    Leave,
    Look,
    Renew,
    Reply,
    Say,
    Where,
)
from realtime.gaps import Position
from realtime.identity import ANONYMOUS, Identity
from realtime.namespaces import Namespaces
from realtime.protocols import (
    BadFrame,
    Call,
    Connect,
    History,
    Ping,
    Pong,
    Presence,
    PresenceStats,
    Publish,
    Refresh,
    Refused,
    SubRefresh,
    Subscribe,
    Unsubscribe,
    Wanted,
    centrifugo,
)
from realtime.tokens import Tokens
from tests.support.chat import CHAT

NAMESPACES = Namespaces(
    {
        "chat": CHAT,
        "open": {
            "allow_subscribe_for_client": True,
            "allow_subscribe_for_anonymous": True,
            "allow_publish_for_client": True,
            "allow_publish_for_anonymous": True,
        },
    }
)


NOW = 1_800_000_000.0
SECRET = "s" * 32
TOKENS = Tokens({"HS256": SECRET})


def new(
    channels_limit: int = 3,
    namespaces: Namespaces = NAMESPACES,
    identity: Identity = ANONYMOUS,
    *,
    now: Callable[[], float] = lambda: NOW,
    **options: Any,
) -> Connection:
    return Connection(
        centrifugo,
        namespaces,
        identity=identity,
        client="me",
        version="1.2.3",
        ping_seconds=25,
        tokens=TOKENS,
        wall_seconds=now,
        channels_limit=channels_limit,
        **options,
    )


def joined(connection: Connection, *command: str) -> Join:
    """Subscribe, as `Conversation` does once the broker listens."""
    join = connection.decide(Subscribe(2, *command))
    assert isinstance(join, Join)
    connection.joined(join)
    return join


@pytest.fixture
def connection() -> Connection:
    """A connection that has introduced itself."""
    connection = new()
    assert isinstance(connection.decide(Connect(1)), Greet)
    return connection


def refused(decision: Decision | None) -> Refusal:
    assert isinstance(decision, Reply)
    error = json.loads(decision.text)["error"]
    return Refusal(error["code"], error["message"], error.get("temporary", False))


def code(decision: Decision | None) -> int:
    return refused(decision).code


# ------------------------------------------------------------------ connecting


def test_connecting_is_greeted():
    connection = new()
    assert not connection.connected
    decision = connection.decide(Connect(7))
    assert isinstance(decision, Greet)
    assert json.loads(decision.text) == {
        "id": 7,
        "connect": {"client": "me", "version": "1.2.3", "ping": 25, "pong": True},
    }
    assert connection.connected


@pytest.mark.parametrize(
    "command",
    [
        Subscribe(1, "public:news"),
        Unsubscribe(1, "public:news"),
        Publish(1, "open:x", b"1"),
        Ping(1),
        Refused(1, METHOD_NOT_FOUND),
    ],
    ids=lambda command: type(command).__name__,
)
def test_nothing_goes_before_connecting(command):
    connection = new()
    assert connection.decide(command) == End(BAD_REQUEST)
    assert not connection.connected


def test_a_subscribe_is_judged_after_connecting_whoever_asks():
    """`Conversation` does not ask `decide` about it, which would look after that."""
    connection = new()
    command = Subscribe(1, "public:news", "forged")
    assert connection.grant_of(command.token) is None, "no work before connecting"
    assert connection.subscribe(command, None) == End(BAD_REQUEST)
    connection.decide(Connect(2, token(expires=NOW - 60)))
    assert connection.subscribe(command, None).code == 101
    assert not connection.connected


def test_connecting_twice_ends_it(connection):
    assert connection.decide(Connect(2)) == End(BAD_REQUEST)


def test_a_pong_needs_no_answer_at_any_time(connection):
    assert new().decide(Pong()) is None
    assert connection.decide(Pong()) is None


def test_a_ping_is_answered(connection):
    assert connection.decide(Ping(2)) == Reply('{"id":2,"ping":{}}')


def test_a_command_that_cannot_be_done_is_refused_by_its_id(connection):
    decision = connection.decide(Refused(2, METHOD_NOT_FOUND))
    assert refused(decision) == METHOD_NOT_FOUND
    assert json.loads(decision.text)["id"] == 2


# ------------------------------------------------------------------ channels


def test_a_channel_that_is_open_may_be_joined(connection):
    decision = connection.decide(Subscribe(2, "public:news"))
    assert isinstance(decision, Join)
    assert (decision.id, decision.channel) == (2, "public:news")
    assert decision.namespace is NAMESPACES.get("public:news")


@pytest.mark.parametrize("channel", ["news", "absent:news", "public:news#42"])
def test_what_is_closed_what_is_missing_and_what_is_anothers_look_the_same(connection, channel):
    assert code(connection.decide(Subscribe(2, channel))) == 103


def test_a_channel_is_joined_once(connection):
    joined(connection, "public:news")
    assert code(connection.decide(Subscribe(3, "public:news"))) == 105


def test_there_is_a_limit_of_channels(connection):
    for number in range(3):
        joined(connection, f"public:{number}")
    assert code(connection.decide(Subscribe(5, "public:3"))) == 106


def test_refused_channels_count_for_nothing(connection):
    for _ in range(10):
        connection.decide(Subscribe(2, "closed"))
    assert isinstance(connection.decide(Subscribe(3, "public:news")), Join)


def test_leaving_is_done_and_answered(connection):
    joined(connection, "public:news")
    decision = connection.decide(Unsubscribe(3, "public:news"))
    assert decision == Leave("public:news", '{"id":3,"unsubscribe":{}}')


def test_leaving_what_was_never_joined_is_answered_too(connection):
    """Centrifugo does the same: an SDK that lost the reply leaves again."""
    assert isinstance(connection.decide(Unsubscribe(3, "public:news")), Leave)


def test_a_channel_that_was_left_can_be_joined_again(connection):
    joined(connection, "public:news")
    connection.decide(Unsubscribe(3, "public:news"))
    assert isinstance(connection.decide(Subscribe(4, "public:news")), Join)


def test_a_served_join_that_failed_can_be_asked_for(connection):
    join = connection.serve("public:news")
    connection.join_failed(join)
    assert connection.channels == []
    assert isinstance(connection.decide(Subscribe(3, "public:news")), Join)


def test_a_join_that_failed_late_does_not_undo_a_newer_one(connection):
    first = connection.serve("public:news")
    connection.decide(Unsubscribe(3, "public:news"))
    joined(connection, "public:news")
    connection.join_failed(first)
    assert code(connection.decide(Subscribe(5, "public:news"))) == 105


# ---------------------------------------------------------------------- served


def test_a_served_channel_counts_and_is_served_once(connection):
    join = connection.serve("public:a")
    assert (join.channel, join.is_served) == ("public:a", True)
    assert connection.serve("public:a") is None
    assert connection.serve("absent:a") is None
    assert connection.serve("closed") is not None, "the server may, whatever the options say"
    assert connection.serve("public:b") is not None
    assert connection.serve("public:c") is None, "three is the limit here"
    assert connection.channels == ["public:a", "closed", "public:b"]


def test_a_client_may_take_over_a_served_channel_once(connection):
    connection.serve("closed")
    join = connection.decide(Subscribe(2, "closed"))
    assert (join.id, join.is_served) == (2, False)
    connection.joined(join)
    assert code(connection.decide(Subscribe(3, "closed"))) == 105


def test_a_takeover_knows_where_serving_began_and_keeps_the_wishes(connection):
    old, began = Position("e", 2), Position("e", 5)
    served = connection.serve("closed")
    served.since, served.hears_joins = old, True
    join = connection.decide(Subscribe(2, "closed"))
    assert (join.since, join.began, join.hears_joins) == (old, None, True)
    connection.joined(served)
    served.began = began
    join = connection.decide(Subscribe(3, "closed"))
    assert (join.since, join.began) == (None, began), "what it missed since was told already"
    join = connection.decide(Subscribe(4, "closed", position=old))
    assert (join.since, join.began) == (old, began)


def test_what_a_user_is_served_comes_with_the_greeting():
    namespaces = Namespaces({}, personal="user:#")
    greet = new(namespaces=namespaces, identity=Identity("42")).decide(Connect(1))
    assert [(join.channel, join.is_served) for join in greet.joins] == [("user:#42", True)]
    assert new(namespaces=namespaces).decide(Connect(1)).joins == ()


def test_somebody_else_may_say_until_when_an_identity_is_known(connection):
    assert connection.prolong(NOW + 60) == 60
    assert connection.prolong(NOW - 60) == 1
    assert connection.prolong(None) is None


# ------------------------------------------------------------------ publishing


def test_a_client_may_publish_where_everybody_may(connection):
    decision = connection.decide(Publish(2, "open:x", b'{ "n" : 1 }'))
    assert isinstance(decision, Say)
    assert decision.publication.channel == "open:x"
    assert decision.publication.body == (b'{"data":{"n":1},"info":{"user":"","client":"me"}}')
    assert decision.command.id == 2


def test_a_subscriber_may_publish_where_subscribers_may(connection):
    assert code(connection.decide(Publish(2, "chat:lobby", b"1"))) == 103
    joined(connection, "chat:lobby")
    assert isinstance(connection.decide(Publish(4, "chat:lobby", b"1")), Say)
    connection.decide(Unsubscribe(5, "chat:lobby"))
    assert code(connection.decide(Publish(6, "chat:lobby", b"1"))) == 103


@pytest.mark.parametrize("channel", ["news", "absent:x", "public:news"])
def test_a_client_may_not_publish_elsewhere(connection, channel):
    connection.decide(Subscribe(2, channel))
    assert code(connection.decide(Publish(3, channel, b"1"))) == 103


@pytest.mark.parametrize(
    "data",
    [b"1e999", b'"\\ud800"', b"[" * 50 + b"]" * 50, b"[" * 5000, b'"' + b"x" * 70_000 + b'"', b"{"],
    ids=["1e999", "surrogate", "deep", "bomb", "large", "torn"],
)
def test_data_that_cannot_be_published_is_refused_and_says_why(connection, data):
    refusal = refused(connection.decide(Publish(2, "open:x", data)))
    assert refusal.code == 107
    assert refusal.message.startswith("data")


# ---------------------------------------------------- what a step under way permits


class Clock:
    """A wall clock that a test moves."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    "command",
    [
        Publish(3, "chat:lobby", b"1"),
        History(3, "chat:lobby"),
        Presence(3, "chat:lobby"),
        PresenceStats(3, "chat:lobby"),
        SubRefresh(3, "chat:lobby", "a token"),
    ],
    ids=lambda command: type(command).__name__,
)
@pytest.mark.parametrize("way", ["asked for", "served", "named in connect"])
def test_a_subscription_under_way_permits_nothing(command, way):
    connection = new()
    connection.decide(Connect(1, subs=(Wanted("chat:lobby"),) if way[0] == "n" else ()))
    if way == "served":
        connection.serve("chat:lobby")
    elif way == "asked for":
        assert isinstance(connection.decide(Subscribe(2, "chat:lobby")), Join)
    assert code(connection.decide(command)) == 103


def test_a_token_that_expires_while_a_subscribe_waits_opens_nothing():
    clock = Clock()
    connection = new(now=clock, identity=Identity("42"))
    connection.decide(Connect(1))
    command = Subscribe(2, "private", token(channel="private", expires=NOW + 10))
    shown = connection.grant_of(command.token)
    assert isinstance(connection.subscribe(command, shown), Join)
    clock.now += 8
    join = connection.subscribe(command, shown)
    assert connection.joined(join) == 2, "what is left of it, not what was"
    connection.left("private")
    clock.now += 60
    assert connection.subscribe(command, shown).code == 109


def test_a_token_that_expires_while_the_broker_is_away_serves_nothing():
    clock = Clock()
    connection = new(now=clock, identity=Identity("42"))
    wanted = Wanted("private", token(channel="private", expires=NOW + 10))
    [join] = connection.decide(Connect(1, subs=(wanted,))).joins
    assert connection.end_of(join) is None
    clock.now += 60
    assert connection.end_of(join).code == 2501
    assert code(connection.decide(Subscribe(2, "private"))) == 103, "nor is it taken over"


def test_who_takes_over_what_the_host_has_not_allowed_yet_is_judged_anew():
    """`subs` in connect, and a subscribe to the same in its frame: the host was never asked."""
    connection = new(has_authorizer=True, identity=Identity("42"))
    greet = connection.decide(Connect(1, subs=(Wanted("secret"), Wanted("absent:secret"))))
    assert [join.must_ask for join in greet.joins] == [True, True]
    for channel, is_void in (("secret", False), ("absent:secret", True)):
        join = connection.decide(Subscribe(2, channel))
        assert (join.must_ask, join.is_void) == (True, is_void)


def test_who_takes_over_what_a_token_opened_has_it_no_longer_than_that():
    clock = Clock()
    connection = new(now=clock, identity=Identity("42"))
    wanted = Wanted("private", token(channel="private", info="guest"))
    [served] = connection.decide(Connect(1, subs=(wanted,))).joins
    before = connection.decide(Subscribe(2, "private"))
    assert connection.joined(served) == 60
    after = connection.decide(Subscribe(2, "private"))
    assert connection.joined(before) == connection.joined(after) == 60
    assert json.loads(connection.member_of("private").info)["chan_info"] == "guest"


def test_a_place_that_is_kept_for_a_served_channel_counts():
    connection = new(channels_limit=1)
    connection.decide(Connect(1))
    connection.serve("public:a")
    assert code(connection.decide(Subscribe(2, "public:b"))) == 106
    assert isinstance(connection.decide(Subscribe(3, "public:a")), Join)
    assert not connection.has_room()


def test_what_connect_names_is_served_or_refused_like_a_subscribe():
    connection = new(namespaces=Namespaces({}, personal="user:#"), identity=Identity("42"))
    position = Position("e", 7)
    old = token(channel="private", expires=NOW - 60)
    wanted = (
        Wanted("user:#42", position=position),
        Wanted("public:news"),
        Wanted("closed"),
        Wanted("private", old),
        *(Wanted(f"public:{number}") for number in range(2)),
    )
    greet = connection.decide(Connect(1, subs=wanted))
    assert [join.channel for join in greet.joins] == ["user:#42", "public:news", "public:0"]
    assert greet.joins[0].since == position
    ends = [json.loads(text)["push"] for text in greet.refused]
    assert [(end["channel"], end["unsubscribe"]["code"]) for end in ends] == [
        ("closed", 2001),
        ("private", 2501),
        ("public:1", 2001),
    ]


def test_a_subscriber_asks_who_is_there_and_where_the_channel_stands(connection):
    joined(connection, "chat:lobby")
    assert connection.decide(Presence(3, "chat:lobby")) == Look(3, "chat:lobby", False)
    assert connection.decide(PresenceStats(4, "chat:lobby")) == Look(4, "chat:lobby", True)
    assert connection.decide(History(5, "chat:lobby")) == Where(5, "chat:lobby")


def test_who_is_there_cannot_be_asked_where_nobody_writes_it_down():
    namespaces = Namespaces({"n": {"allow_presence_for_client": True}})
    connection = new(namespaces=namespaces, identity=Identity("42"))
    connection.decide(Connect(1))
    assert code(connection.decide(Presence(2, "n:x"))) == 108
    assert code(connection.decide(PresenceStats(3, "absent:x"))) == 103


# ------------------------------------------------------------------------- calls


def test_a_call_is_the_hosts_to_answer():
    connection = new(has_rpc=True)
    connection.decide(Connect(1))
    assert connection.decide(Call(2, "m", b'{"a":1}')).data == {"a": 1}
    assert code(connection.decide(Call(3, "m", b"1e999"))) == 107


def test_a_client_that_speaks_beside_its_stream_learns_how():
    connection = new(emulated_by=("secret", "node"))
    greeting = json.loads(connection.decide(Connect(1)).text)["connect"]
    assert (greeting["session"], greeting["node"]) == (connection.session, "node")
    assert new().session == ""


def test_a_call_that_nobody_answers_is_not_available():
    """Centrifugo 5 and 6: `handleRPC` without a handler is ErrorNotAvailable (108), not 104."""
    connection = new()
    connection.decide(Connect(1))
    assert code(connection.decide(Call(2, "m", b"1"))) == 108
    assert connection.decide(Call(0, "", b"1")) is None


# ------------------------------------------------------------------ bad frames


def test_an_unreadable_frame_is_a_mistake_and_the_third_is_the_end(connection):
    for _ in range(STRIKES - 1):
        decision = connection.bad_frame(BadFrame("not JSON"))
        assert refused(decision) == Refusal(107, "bad request: not JSON")
        assert "id" not in json.loads(decision.text)
    assert connection.bad_frame(BadFrame("not JSON")) == End(BAD_REQUEST)


def test_who_begins_with_an_unreadable_frame_is_no_client():
    assert new().bad_frame(BadFrame("GET / HTTP/1.1")) == End(BAD_REQUEST)


# ------------------------------------------------------------------ the machine

CHANNELS = st.sampled_from(["public:a", "public:b", "chat:c", "open:d", "closed", "absent:e"])


# ------------------------------------------------------------------ tokens


def token(*, expires: float = NOW + 60, **claims: object) -> str:
    return jwt.encode({"sub": "42", "exp": expires, **claims}, SECRET, "HS256")


def known(expires: float = NOW + 60) -> Connection:
    connection = new()
    assert isinstance(connection.decide(Connect(1, token(expires=expires))), Greet)
    return connection


def test_a_token_says_who_connects_and_for_how_long():
    greeting = new().decide(Connect(1, token(expires=NOW + 60)))
    assert isinstance(greeting, Greet)
    assert greeting.ttl_seconds == 60
    assert json.loads(greeting.text)["connect"]["ttl"] == 60


def test_who_shows_a_forged_token_does_not_come_back():
    assert new().decide(Connect(1, "forged")) == End(INVALID_TOKEN)


def test_who_shows_an_expired_token_may_connect_with_another_one():
    connection = new()
    assert code(connection.decide(Connect(1, token(expires=NOW - 60)))) == 109
    assert code(connection.decide(Subscribe(9, "public:news"))) == 101, "of the same frame"
    assert isinstance(connection.decide(Connect(2, token())), Greet)


def test_a_user_hears_what_is_for_him_and_nothing_that_is_for_others():
    connection = known()
    assert isinstance(connection.decide(Subscribe(2, "news#42")), Join)
    assert code(connection.decide(Subscribe(3, "news#43"))) == 103


def test_a_subscription_token_opens_one_channel_for_one_user():
    connection = known()
    join = connection.decide(Subscribe(2, "private", token(channel="private")))
    assert isinstance(join, Join)
    assert connection.joined(join) == 60
    for number, shown in enumerate(
        [token(channel="other"), token(channel="closed", sub="43"), token(), "forged"], 3
    ):
        assert code(connection.decide(Subscribe(number, "closed", shown))) == 103
    expired = token(channel="closed", expires=NOW - 60)
    assert code(connection.decide(Subscribe(9, "closed", expired))) == 109


def test_what_a_subscription_token_shows_is_shown_on_its_channel_alone():
    connection = known()
    joined(connection, "private", token(channel="private", info="guest"))
    assert json.loads(connection.member_of("private").info)["chan_info"] == "guest"
    assert "chan_info" not in connection.member_of("other").info


def test_a_new_token_renews_the_connection_of_the_same_user():
    renewed = known(NOW + 10).decide(Refresh(2, token(expires=NOW + 90)))
    assert isinstance(renewed, Renew)
    assert (renewed.channel, renewed.ttl_seconds) == ("", 90)
    assert json.loads(renewed.text)["refresh"]["ttl"] == 90


@pytest.mark.parametrize(
    ("shown", "close"),
    [
        (token(sub="43"), INVALID_TOKEN),
        ("forged", INVALID_TOKEN),
        ("", INVALID_TOKEN),
        (token(expires=NOW - 60), EXPIRED),
    ],
)
def test_a_new_token_that_is_not_good_ends_it(shown: str, close: Close):
    assert known().decide(Refresh(2, shown)) == End(close)


def test_a_new_token_renews_a_subscription():
    connection = known()
    joined(connection, "private", token(channel="private"))
    renewed = connection.decide(
        SubRefresh(3, "private", token(channel="private", expires=NOW + 90))
    )
    assert isinstance(renewed, Renew)
    assert (renewed.channel, renewed.ttl_seconds) == ("private", 90)


def test_a_subscription_is_not_renewed_by_what_is_not_for_it():
    connection = known()
    assert code(connection.decide(SubRefresh(2, "private", token(channel="private")))) == 103
    joined(connection, "private", token(channel="private"))
    assert code(connection.decide(SubRefresh(4, "private", token(channel="other")))) == 103
    assert code(connection.decide(SubRefresh(5, "private", "forged"))) == 103
    expired = token(channel="private", expires=NOW - 60)
    assert code(connection.decide(SubRefresh(6, "private", expired))) == 109


def test_a_subscription_that_has_ended_can_be_made_again():
    connection = known()
    joined(connection, "news#42")
    connection.left("news#42")
    assert isinstance(connection.decide(Subscribe(3, "news#42")), Join)


class ConnectionMachine(RuleBasedStateMachine):
    """Everything a client may say, in any order, against a model of what it may do."""

    @initialize()
    def accept(self) -> None:
        self.connection = new(channels_limit=2)
        self.connected = self.ended = False
        self.joined: dict[str, Join] = {}
        self.under_way: list[Join] = []
        self.strikes = 0
        self.id = 0

    @precondition(lambda self: self.ended)
    @rule()
    def another_client_comes(self) -> None:
        self.accept()

    def next_id(self) -> int:
        self.id += 1
        return self.id

    def decide(self, command: object) -> Decision | None:
        """The decision, if it is about this command and may be taken now; None if it is the end."""
        decision = self.connection.decide(command)
        if isinstance(decision, End):
            self.ended = True
            return None
        assert decision is not None
        if isinstance(decision, Join | Where | Look):
            assert decision.id == self.id
        elif isinstance(decision, Say):
            assert decision.command.id == self.id
        else:
            assert json.loads(decision.text)["id"] == self.id
        assert self.connected or isinstance(decision, Greet)
        return decision

    @precondition(lambda self: not self.ended)
    @rule()
    def it_connects(self) -> None:
        decision = self.decide(Connect(self.next_id()))
        assert isinstance(decision, Greet) == (not self.connected)
        assert self.ended == self.connected
        self.connected = True

    @precondition(lambda self: not self.ended)
    @rule(channel=CHANNELS)
    def it_subscribes(self, channel: str) -> None:
        decision = self.decide(Subscribe(self.next_id(), channel))
        if not self.connected:
            assert self.ended
        elif channel in self.joined:
            assert code(decision) == 105
        elif not NAMESPACES.may_subscribe(channel):
            assert code(decision) == 103
        elif len(self.joined) == 2:
            assert code(decision) == 106
        else:
            assert isinstance(decision, Join)
            self.under_way.append(decision)

    @precondition(lambda self: not self.ended and self.under_way)
    @rule(data=st.data())
    def a_join_is_done(self, data: st.DataObject) -> None:
        """Only of those that are still allowed: `Conversation` judges once more before."""
        join = self.under_way.pop(data.draw(st.integers(0, len(self.under_way) - 1)))
        if join.channel not in self.joined and len(self.joined) < 2:
            self.connection.joined(join)
            self.joined[join.channel] = join

    @precondition(lambda self: not self.ended and self.joined)
    @rule(data=st.data())
    def a_subscription_ends(self, data: st.DataObject) -> None:
        channel = data.draw(st.sampled_from(sorted(self.joined)))
        del self.joined[channel]
        self.connection.left(channel)

    @precondition(lambda self: not self.ended)
    @rule(channel=CHANNELS)
    def it_asks_where_a_channel_stands(self, channel: str) -> None:
        decision = self.decide(History(self.next_id(), channel))
        assert isinstance(decision, Where) == (self.connected and channel in self.joined)

    @precondition(lambda self: not self.ended)
    @rule(channel=CHANNELS)
    def it_asks_who_is_there(self, channel: str) -> None:
        decision = self.decide(Presence(self.next_id(), channel))
        may = channel == "chat:c" and channel in self.joined
        assert isinstance(decision, Look) == (self.connected and may)

    @precondition(lambda self: not self.ended)
    @rule(channel=CHANNELS)
    def it_unsubscribes(self, channel: str) -> None:
        decision = self.decide(Unsubscribe(self.next_id(), channel))
        assert isinstance(decision, Leave) == self.connected
        self.joined.pop(channel, None)

    @precondition(lambda self: not self.ended)
    @rule(channel=CHANNELS)
    def it_publishes(self, channel: str) -> None:
        decision = self.decide(Publish(self.next_id(), channel, b"1"))
        may = channel == "open:d" or (channel == "chat:c" and channel in self.joined)
        if not self.connected:
            assert self.ended
        elif may:
            assert isinstance(decision, Say)
        else:
            assert code(decision) == 103

    @precondition(lambda self: not self.ended)
    @rule()
    def it_pings(self) -> None:
        assert isinstance(self.decide(Ping(self.next_id())), Reply) == self.connected

    @precondition(lambda self: not self.ended)
    @rule()
    def it_pongs(self) -> None:
        assert self.connection.decide(Pong()) is None

    @precondition(lambda self: not self.ended)
    @rule()
    def it_stammers(self) -> None:
        self.strikes += 1
        decision = self.connection.bad_frame(BadFrame("what?"))
        self.ended = isinstance(decision, End)
        assert self.ended == (not self.connected or self.strikes == STRIKES)


TestEveryCommandIsAnsweredOnce = ConnectionMachine.TestCase
