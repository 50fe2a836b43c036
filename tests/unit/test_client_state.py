"""What one client may do: cases, and a state machine that answers every command once, in order."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from realtime.connection.client_state import STRIKES, ClientState
from realtime.connection.decisions import (
    Decision,
    End,
    Greet,
    Join,
    Leave,
    QueryPosition,
    QueryPresence,
    Renew,
    Reply,
    SendPublication,
)
from realtime.core.codes import (
    BAD_REQUEST,
    EXPIRED,
    INVALID_TOKEN,
    METHOD_NOT_FOUND,
    Close,
    Refusal,
)
from realtime.core.identity import ANONYMOUS, Identity
from realtime.core.namespaces import Namespaces
from realtime.core.positions import Position
from realtime.identity.tokens import Tokens
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
    WantedChannel,
    centrifugo,
)
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
) -> ClientState:
    return ClientState(
        centrifugo,
        namespaces,
        identity=identity,
        client="me",
        version="1.2.3",
        ping_seconds=25,
        credentials=TOKENS,
        wall_seconds=now,
        channels_limit=channels_limit,
        **options,
    )


def decide(state: ClientState, command: Any) -> Any:
    """Decide a command as `Conversation` does: `ClientState.decide` does not take subscribes."""
    if not isinstance(command, Subscribe):
        return state.decide(command)
    judged = state.check_subscribe(command, state.grant_of(command))
    if isinstance(judged, Refusal):
        return Reply(centrifugo.encode_refusal(command, judged))
    return judged


def joined(state: ClientState, *command: str) -> Join:
    """Subscribe, as `Conversation` does once the broker is subscribed."""
    join = decide(state, Subscribe(2, *command))
    assert isinstance(join, Join)
    state.channels.start_subscription(join)
    return join


@pytest.fixture
def state() -> ClientState:
    """A client that has sent `connect`."""
    state = new()
    assert isinstance(state.decide(Connect(1)), Greet)
    return state


def refused(decision: Decision | None) -> Refusal:
    assert isinstance(decision, Reply)
    error = json.loads(decision.text)["error"]
    return Refusal(error["code"], error["message"], error.get("temporary", False))


def code(decision: Decision | None) -> int:
    return refused(decision).code


# ------------------------------------------------------------------ connecting


def test_connecting_is_answered():
    state = new()
    assert not state.connected
    decision = state.decide(Connect(7))
    assert isinstance(decision, Greet)
    assert json.loads(decision.text) == {
        "id": 7,
        "connect": {"client": "me", "version": "1.2.3", "ping": 25, "pong": True},
    }
    assert state.connected


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
def test_no_command_is_accepted_before_connect(command):
    state = new()
    assert decide(state, command) == End(BAD_REQUEST)
    assert not state.connected


def test_a_subscribe_is_decided_after_connect_for_every_caller():
    """`Conversation` does not call `decide` for it, which would check that."""
    state = new()
    command = Subscribe(1, "public:news", "forged")
    assert state.grant_of(command.token) is None, "no work before connecting"
    assert state.check_subscribe(command, None) == End(BAD_REQUEST)
    state.decide(Connect(2, token(expires=NOW - 60)))
    assert state.check_subscribe(command, None).code == 101
    assert not state.connected


def test_connecting_twice_ends_the_connection(state):
    assert state.decide(Connect(2)) == End(BAD_REQUEST)


def test_a_pong_needs_no_answer_at_any_time(state):
    assert new().decide(Pong()) is None
    assert state.decide(Pong()) is None


def test_a_ping_is_answered(state):
    assert state.decide(Ping(2)) == Reply('{"id":2,"ping":{}}')


def test_an_invalid_command_is_refused_by_its_id(state):
    decision = state.decide(Refused(2, METHOD_NOT_FOUND))
    assert refused(decision) == METHOD_NOT_FOUND
    assert json.loads(decision.text)["id"] == 2


# ------------------------------------------------------------------ channels


def test_an_open_channel_may_be_joined(state):
    decision = decide(state, Subscribe(2, "public:news"))
    assert isinstance(decision, Join)
    assert decision.channel == "public:news"
    assert decision.namespace is NAMESPACES.get("public:news")


@pytest.mark.parametrize("channel", ["news", "absent:news", "public:news#42"])
def test_closed_missing_and_foreign_channels_look_the_same(state, channel):
    assert code(decide(state, Subscribe(2, channel))) == 103


def test_a_channel_is_joined_once(state):
    joined(state, "public:news")
    assert code(decide(state, Subscribe(3, "public:news"))) == 105


def test_the_number_of_channels_is_limited(state):
    for number in range(3):
        joined(state, f"public:{number}")
    assert code(decide(state, Subscribe(5, "public:3"))) == 106


def test_refused_channels_do_not_count_towards_the_limit(state):
    for _ in range(10):
        decide(state, Subscribe(2, "closed"))
    assert isinstance(decide(state, Subscribe(3, "public:news")), Join)


def test_leaving_a_channel_is_answered(state):
    joined(state, "public:news")
    decision = state.decide(Unsubscribe(3, "public:news"))
    assert decision == Leave("public:news", '{"id":3,"unsubscribe":{}}')


def test_leaving_a_channel_that_was_never_joined_is_answered_too(state):
    """Centrifugo does the same: an SDK that missed the reply unsubscribes again."""
    assert isinstance(state.decide(Unsubscribe(3, "public:news")), Leave)


def test_a_channel_that_was_left_can_be_joined_again(state):
    joined(state, "public:news")
    state.decide(Unsubscribe(3, "public:news"))
    assert isinstance(decide(state, Subscribe(4, "public:news")), Join)


def test_a_failed_served_channel_can_be_subscribed_by_the_client(state):
    join = state.channels.serve("public:news")
    state.channels.cancel_join(join)
    assert state.channels.names == []
    assert isinstance(decide(state, Subscribe(3, "public:news")), Join)


def test_a_join_that_failed_late_does_not_undo_a_newer_one(state):
    first = state.channels.serve("public:news")
    state.decide(Unsubscribe(3, "public:news"))
    joined(state, "public:news")
    state.channels.cancel_join(first)
    assert code(decide(state, Subscribe(5, "public:news"))) == 105


# ---------------------------------------------------------------------- served


def test_a_served_channel_counts_and_is_served_once(state):
    join = state.channels.serve("public:a")
    assert (join.channel, join.is_served) == ("public:a", True)
    assert state.channels.serve("public:a") is None
    assert state.channels.serve("absent:a") is None
    assert state.channels.serve("closed") is not None, "the server may, whatever the options say"
    assert state.channels.serve("public:b") is not None
    assert state.channels.serve("public:c") is None, "three is the limit here"
    assert state.channels.names == ["public:a", "closed", "public:b"]


def test_a_client_may_take_over_a_served_channel_once(state):
    state.channels.serve("closed")
    join = decide(state, Subscribe(2, "closed"))
    assert not join.is_served
    state.channels.start_subscription(join)
    assert code(decide(state, Subscribe(3, "closed"))) == 105


def test_a_takeover_keeps_the_start_position_and_the_options(state):
    old, began = Position("e", 2), Position("e", 5)
    served = state.channels.serve("closed")
    served.since, served.hears_joins = old, True
    join = decide(state, Subscribe(2, "closed"))
    assert (join.since, join.began, join.hears_joins) == (old, None, True)
    state.channels.start_subscription(served)
    served.began = began
    join = decide(state, Subscribe(3, "closed"))
    assert (join.since, join.began) == (None, began), "later gaps were already reported"
    join = decide(state, Subscribe(4, "closed", position=old))
    assert (join.since, join.began) == (old, began)


def test_served_channels_are_in_the_connect_reply():
    namespaces = Namespaces({}, personal="user:#")
    greet = new(namespaces=namespaces, identity=Identity("42")).decide(Connect(1))
    assert [(join.channel, join.is_served) for join in greet.joins] == [("user:#42", True)]
    assert new(namespaces=namespaces).decide(Connect(1)).joins == ()


def test_the_expiry_of_an_identity_may_come_from_elsewhere(state):
    assert state.prolong(NOW + 60) == 60
    assert state.prolong(NOW - 60) == 1
    assert state.prolong(None) is None


# ------------------------------------------------------------------ publishing


def test_a_client_may_publish_where_every_client_may(state):
    decision = state.decide(Publish(2, "open:x", b'{ "n" : 1 }'))
    assert isinstance(decision, SendPublication)
    assert decision.publication.channel == "open:x"
    assert decision.publication.body == (b'{"data":{"n":1},"info":{"user":"","client":"me"}}')
    assert decision.command.id == 2


def test_a_subscriber_may_publish_where_subscribers_may(state):
    assert code(state.decide(Publish(2, "chat:lobby", b"1"))) == 103
    joined(state, "chat:lobby")
    assert isinstance(state.decide(Publish(4, "chat:lobby", b"1")), SendPublication)
    state.decide(Unsubscribe(5, "chat:lobby"))
    assert code(state.decide(Publish(6, "chat:lobby", b"1"))) == 103


@pytest.mark.parametrize("channel", ["news", "absent:x", "public:news"])
def test_a_client_may_not_publish_elsewhere(state, channel):
    decide(state, Subscribe(2, channel))
    assert code(state.decide(Publish(3, channel, b"1"))) == 103


@pytest.mark.parametrize(
    "data",
    [b"1e999", b'"\\ud800"', b"[" * 50 + b"]" * 50, b"[" * 5000, b'"' + b"x" * 70_000 + b'"', b"{"],
    ids=["1e999", "surrogate", "deep", "bomb", "large", "torn"],
)
def test_data_that_cannot_be_published_is_refused_and_says_why(state, data):
    refusal = refused(state.decide(Publish(2, "open:x", data)))
    assert refusal.code == 107
    assert refusal.message.startswith("data")


# ---------------------------------------------------- what a pending step permits


class Clock:
    """A wall clock that a test can change."""

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
def test_a_pending_subscription_permits_nothing(command, way):
    state = new()
    state.decide(Connect(1, subs=(WantedChannel("chat:lobby"),) if way[0] == "n" else ()))
    if way == "served":
        state.channels.serve("chat:lobby")
    elif way == "asked for":
        assert isinstance(decide(state, Subscribe(2, "chat:lobby")), Join)
    assert code(decide(state, command)) == 103


def test_a_token_that_expires_while_its_subscribe_waits_is_refused():
    clock = Clock()
    state = new(now=clock, identity=Identity("42"))
    state.decide(Connect(1))
    command = Subscribe(2, "private", token(channel="private", expires=NOW + 10))
    shown = state.grant_of(command)
    assert isinstance(state.check_subscribe(command, shown), Join)
    clock.now += 8
    join = state.check_subscribe(command, shown)
    assert state.channels.start_subscription(join) == 2, (
        "the remaining validity, not the original one"
    )
    state.channels.end_subscription("private")
    clock.now += 60
    assert state.check_subscribe(command, shown).code == 109


def test_a_token_that_expires_during_a_broker_outage_serves_no_channel():
    clock = Clock()
    state = new(now=clock, identity=Identity("42"))
    wanted = WantedChannel("private", token(channel="private", expires=NOW + 10))
    [join] = state.decide(Connect(1, subs=(wanted,))).joins
    assert state.channels.why_end(join) is None
    clock.now += 60
    assert state.channels.why_end(join).code == 2501
    assert code(decide(state, Subscribe(2, "private"))) == 103, "nor can it be taken over"


def test_taking_over_an_undecided_channel_is_authorized_again():
    """With a channel in both connect and a subscribe of one frame, the host was not asked."""
    state = new(has_authorizer=True, identity=Identity("42"))
    greet = state.decide(Connect(1, subs=(WantedChannel("secret"), WantedChannel("absent:secret"))))
    assert [join.must_ask for join in greet.joins] == [True, True]
    for channel, is_refused_anyway in (("secret", False), ("absent:secret", True)):
        join = decide(state, Subscribe(2, channel))
        assert (join.must_ask, join.is_refused_anyway) == (True, is_refused_anyway)


def test_a_takeover_of_a_token_channel_keeps_its_expiry():
    clock = Clock()
    state = new(now=clock, identity=Identity("42"))
    wanted = WantedChannel("private", token(channel="private", info="guest"))
    [served] = state.decide(Connect(1, subs=(wanted,))).joins
    before = decide(state, Subscribe(2, "private"))
    assert state.channels.start_subscription(served) == 60
    after = decide(state, Subscribe(2, "private"))
    assert (
        state.channels.start_subscription(before) == state.channels.start_subscription(after) == 60
    )
    assert json.loads(state.member_of("private").info)["chan_info"] == "guest"


def test_a_slot_reserved_for_a_served_channel_counts():
    state = new(channels_limit=1)
    state.decide(Connect(1))
    state.channels.serve("public:a")
    assert code(decide(state, Subscribe(2, "public:b"))) == 106
    assert isinstance(decide(state, Subscribe(3, "public:a")), Join)
    assert not state.channels.fits_another()


def test_channels_named_in_connect_are_decided_like_subscribes():
    state = new(namespaces=Namespaces({}, personal="user:#"), identity=Identity("42"))
    position = Position("e", 7)
    old = token(channel="private", expires=NOW - 60)
    wanted = (
        WantedChannel("user:#42", position=position),
        WantedChannel("public:news"),
        WantedChannel("closed"),
        WantedChannel("private", old),
        *(WantedChannel(f"public:{number}") for number in range(2)),
    )
    greet = state.decide(Connect(1, subs=wanted))
    assert [join.channel for join in greet.joins] == ["user:#42", "public:news", "public:0"]
    assert greet.joins[0].since == position
    ends = [json.loads(centrifugo.encode_unsubscribe_push(*each))["push"] for each in greet.refused]
    assert [(end["channel"], end["unsubscribe"]["code"]) for end in ends] == [
        ("closed", 2001),
        ("private", 2501),
        ("public:1", 2001),
    ]


def test_a_subscriber_may_request_presence_and_position(state):
    joined(state, "chat:lobby")
    for command in (Presence(3, "chat:lobby"), PresenceStats(4, "chat:lobby")):
        assert decide(state, command) == QueryPresence(command)
    history = History(5, "chat:lobby")
    assert decide(state, history) == QueryPosition(history)


def test_presence_is_not_available_where_it_is_not_recorded():
    namespaces = Namespaces({"n": {"allow_presence_for_client": True}})
    state = new(namespaces=namespaces, identity=Identity("42"))
    state.decide(Connect(1))
    assert code(state.decide(Presence(2, "n:x"))) == 108
    assert code(state.decide(PresenceStats(3, "absent:x"))) == 103


# ------------------------------------------------------------------------- calls


def test_a_call_is_answered_by_the_host():
    state = new(has_rpc=True)
    state.decide(Connect(1))
    assert state.decide(Call(2, "m", b'{"a":1}')).data == {"a": 1}
    assert code(state.decide(Call(3, "m", b"1e999"))) == 107


def test_an_emulated_client_gets_its_session_and_node():
    state = new(emulated_by=("secret", "node"))
    greeting = json.loads(state.decide(Connect(1)).text)["connect"]
    assert (greeting["session"], greeting["node"]) == (state.session, "node")
    assert new().session == ""


def test_a_call_without_a_handler_is_not_available():
    """Centrifugo 5 and 6: `handleRPC` without a handler is ErrorNotAvailable (108), not 104."""
    state = new()
    state.decide(Connect(1))
    assert code(state.decide(Call(2, "m", b"1"))) == 108
    assert state.decide(Call(0, "", b"1", wants_answer=False)) is None


# ------------------------------------------------------------------ bad frames


def test_the_third_unreadable_frame_ends_the_connection(state):
    for _ in range(STRIKES - 1):
        decision = state.bad_frame(BadFrame("not JSON"))
        assert refused(decision) == Refusal(107, "bad request: not JSON")
        assert "id" not in json.loads(decision.text)
    assert state.bad_frame(BadFrame("not JSON")) == End(BAD_REQUEST)


def test_an_unreadable_first_frame_ends_the_connection():
    assert new().bad_frame(BadFrame("GET / HTTP/1.1")) == End(BAD_REQUEST)


# ------------------------------------------------------------------ the machine

CHANNELS = st.sampled_from(["public:a", "public:b", "chat:c", "open:d", "closed", "absent:e"])


# ------------------------------------------------------------------ tokens


def token(*, expires: float = NOW + 60, **claims: object) -> str:
    return jwt.encode({"sub": "42", "exp": expires, **claims}, SECRET, "HS256")


def known(expires: float = NOW + 60) -> ClientState:
    state = new()
    assert isinstance(state.decide(Connect(1, token(expires=expires))), Greet)
    return state


def test_a_connection_has_the_user_and_expiry_of_its_token():
    greeting = new().decide(Connect(1, token(expires=NOW + 60)))
    assert isinstance(greeting, Greet)
    assert greeting.ttl_seconds == 60
    assert json.loads(greeting.text)["connect"]["ttl"] == 60


def test_a_forged_token_closes_the_connection_for_good():
    assert new().decide(Connect(1, "forged")) == End(INVALID_TOKEN)


def test_an_expired_token_may_be_replaced_by_a_new_one():
    state = new()
    assert code(state.decide(Connect(1, token(expires=NOW - 60)))) == 109
    assert code(decide(state, Subscribe(9, "public:news"))) == 101, "of the same frame"
    assert isinstance(state.decide(Connect(2, token())), Greet)


def test_a_user_receives_only_their_own_publications():
    state = known()
    assert isinstance(decide(state, Subscribe(2, "news#42")), Join)
    assert code(decide(state, Subscribe(3, "news#43"))) == 103


def test_a_subscription_token_opens_one_channel_for_one_user():
    state = known()
    join = decide(state, Subscribe(2, "private", token(channel="private")))
    assert isinstance(join, Join)
    assert state.channels.start_subscription(join) == 60
    for number, shown in enumerate(
        [token(channel="other"), token(channel="closed", sub="43"), token(), "forged"], 3
    ):
        assert code(decide(state, Subscribe(number, "closed", shown))) == 103
    expired = token(channel="closed", expires=NOW - 60)
    assert code(decide(state, Subscribe(9, "closed", expired))) == 109


def test_the_info_of_a_subscription_token_is_shown_only_on_its_channel():
    state = known()
    joined(state, "private", token(channel="private", info="guest"))
    assert json.loads(state.member_of("private").info)["chan_info"] == "guest"
    assert "chan_info" not in state.member_of("other").info


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
def test_an_invalid_new_token_ends_the_connection(shown: str, close: Close):
    assert known().decide(Refresh(2, shown)) == End(close)


def test_a_new_token_renews_a_subscription():
    state = known()
    joined(state, "private", token(channel="private"))
    renewed = decide(state, SubRefresh(3, "private", token(channel="private", expires=NOW + 90)))
    assert isinstance(renewed, Renew)
    assert (renewed.channel, renewed.ttl_seconds) == ("private", 90)


def test_a_subscription_is_not_renewed_by_a_token_for_another():
    state = known()
    assert code(state.decide(SubRefresh(2, "private", token(channel="private")))) == 103
    joined(state, "private", token(channel="private"))
    assert code(state.decide(SubRefresh(4, "private", token(channel="other")))) == 103
    assert code(state.decide(SubRefresh(5, "private", "forged"))) == 103
    expired = token(channel="private", expires=NOW - 60)
    assert code(state.decide(SubRefresh(6, "private", expired))) == 109


def test_an_ended_subscription_can_be_made_again():
    state = known()
    joined(state, "news#42")
    state.channels.end_subscription("news#42")
    assert isinstance(decide(state, Subscribe(3, "news#42")), Join)


# ------------------------------------------------------------- a session has ended


def test_a_token_of_an_ended_session_is_answered_as_one_that_has_expired():
    """109 makes an SDK fetch another token, which it does not get after a logout."""
    state = new(ended_sessions={"ended"})
    assert code(state.decide(Connect(1, token(session="ended")))) == 109
    assert state.identity == ANONYMOUS
    assert code(decide(state, Subscribe(2, "news#42"))) == 101
    assert isinstance(state.decide(Connect(3, token(session="another"))), Greet)


def test_a_token_of_an_ended_session_does_not_renew_a_connection():
    ended = set()
    state = new(ended_sessions=ended)
    shown = token(session="s")
    state.decide(Connect(1, shown))
    assert isinstance(state.decide(Refresh(2, shown)), Renew)
    ended.add("s")
    assert state.decide(Refresh(3, shown)) == End(EXPIRED)


# ------------------------------------------------------------------- joins and leaves

CROWDS = Namespaces(
    {
        "told": {"allow_subscribe_for_client": True, "join_leave": True},
        "seen": {
            "allow_subscribe_for_client": True,
            "join_leave": True,
            "allow_presence_for_subscriber": True,
        },
        "asked": {
            "allow_subscribe_for_client": True,
            "join_leave": True,
            "allow_presence_for_client": True,
        },
        "forced": {
            "allow_subscribe_for_client": True,
            "join_leave": True,
            "force_push_join_leave": True,
        },
        "quiet": {"allow_subscribe_for_client": True, "allow_presence_for_subscriber": True},
    }
)


@pytest.mark.parametrize(
    ("channel", "wishing", "silent"),
    [
        ("told:x", False, False),
        ("seen:x", True, False),
        ("asked:x", True, False),
        ("forced:x", True, True),
        ("quiet:x", False, False),
    ],
)
def test_a_client_without_presence_permission_listens_to_joins_instead(
    channel: str, wishing: bool, silent: bool
) -> None:
    """Like presence, a join names a user. Centrifugo 6 requires the same permission."""
    for wish, hears in ((True, wishing), (False, silent)):
        state = new(namespaces=CROWDS, identity=Identity("42"))
        state.decide(Connect(1))
        assert decide(state, Subscribe(2, channel, "", wish)).hears_joins is hears
        by_connect = new(namespaces=CROWDS, identity=Identity("42"))
        [join] = by_connect.decide(
            Connect(1, subs=(WantedChannel(channel, join_leave=wish),))
        ).joins
        assert join.hears_joins is hears
        served = new(namespaces=CROWDS, identity=Identity("42"))
        served.decide(Connect(1))
        join = served.channels.serve(channel)
        assert join is not None
        assert join.hears_joins is silent
        served.channels.start_subscription(join)
        assert decide(served, Subscribe(2, channel, "", wish)).hears_joins is hears


def test_an_anonymous_client_gets_joins_where_it_has_presence_permission():
    for may_ask in (False, True):
        options = {
            "allow_subscribe_for_client": True,
            "allow_subscribe_for_anonymous": True,
            "join_leave": True,
            "allow_presence_for_subscriber": True,
            "allow_presence_for_anonymous": may_ask,
        }
        state = new(namespaces=Namespaces({"n": options}))
        state.decide(Connect(1))
        assert decide(state, Subscribe(2, "n:x", "", True)).hears_joins is may_ask


class ConnectionMachine(RuleBasedStateMachine):
    """Everything that a client may send, in any order, compared with a model of its permissions."""

    @initialize(connects=st.booleans())
    def accept(self, connects: bool) -> None:
        """Accept a client.

        Half of them connect first, since most others are closed at their first command.
        """
        self.state = new(channels_limit=2)
        self.connected = self.ended = False
        self.joined: dict[str, Join] = {}
        self.under_way: list[Join] = []
        self.strikes = 0
        self.id = 0
        if connects:
            self.it_connects()

    @precondition(lambda self: self.ended)
    @rule(connects=st.booleans())
    def another_client_comes(self, connects: bool) -> None:
        self.accept(connects)

    def next_id(self) -> int:
        self.id += 1
        return self.id

    def decide(self, command: object) -> Decision | None:
        """Return the decision, if it is for this command and may be made now; None at the end."""
        decision = decide(self.state, command)
        if isinstance(decision, End):
            self.ended = True
            return None
        assert decision is not None
        if isinstance(decision, Join):
            assert decision.channel == command.channel
        elif isinstance(decision, SendPublication | QueryPosition | QueryPresence):
            assert decision.command == command
        else:
            assert json.loads(decision.text)["id"] == self.id
        assert self.connected or isinstance(decision, Greet)
        return decision

    # Rarely a second one, because it ends the connection, and commands that need a subscription
    # would never be reached.
    @precondition(lambda self: not self.ended and not (self.connected and self.id % 8))
    @rule()
    def it_connects(self) -> None:
        decision = self.decide(Connect(self.next_id()))
        assert isinstance(decision, Greet) == (not self.connected)
        assert self.ended == self.connected
        self.connected = True

    @precondition(lambda self: not self.ended)
    @rule(channel=CHANNELS, at_once=st.booleans())
    def it_subscribes(self, channel: str, at_once: bool) -> None:
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
            if at_once:
                self.finish(decision)
            else:
                self.under_way.append(decision)

    @precondition(lambda self: not self.ended and self.under_way)
    @rule(data=st.data())
    def a_join_is_done(self, data: st.DataObject) -> None:
        """Only joins that are still allowed: `Conversation` checks again before this."""
        join = self.under_way.pop(data.draw(st.integers(0, len(self.under_way) - 1)))
        if join.channel not in self.joined and len(self.joined) < 2:
            self.finish(join)

    def finish(self, join: Join) -> None:
        self.state.channels.start_subscription(join)
        self.joined[join.channel] = join

    @precondition(lambda self: not self.ended and self.joined)
    @rule(data=st.data())
    def a_subscription_ends(self, data: st.DataObject) -> None:
        channel = data.draw(st.sampled_from(sorted(self.joined)))
        del self.joined[channel]
        self.state.channels.end_subscription(channel)

    @precondition(lambda self: not self.ended)
    @rule(channel=CHANNELS)
    def it_asks_where_a_channel_stands(self, channel: str) -> None:
        decision = self.decide(History(self.next_id(), channel))
        assert isinstance(decision, QueryPosition) == (self.connected and channel in self.joined)

    @precondition(lambda self: not self.ended)
    @rule(channel=CHANNELS)
    def it_asks_who_is_there(self, channel: str) -> None:
        decision = self.decide(Presence(self.next_id(), channel))
        may = channel == "chat:c" and channel in self.joined
        assert isinstance(decision, QueryPresence) == (self.connected and may)

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
            assert isinstance(decision, SendPublication)
        else:
            assert code(decision) == 103

    @precondition(lambda self: not self.ended)
    @rule()
    def it_pings(self) -> None:
        assert isinstance(self.decide(Ping(self.next_id())), Reply) == self.connected

    @precondition(lambda self: not self.ended)
    @rule()
    def it_pongs(self) -> None:
        assert self.state.decide(Pong()) is None

    @precondition(lambda self: not self.ended)
    @rule()
    def it_stammers(self) -> None:
        self.strikes += 1
        decision = self.state.bad_frame(BadFrame("what?"))
        self.ended = isinstance(decision, End)
        assert self.ended == (not self.connected or self.strikes == STRIKES)


TestEveryCommandIsAnsweredOnce = ConnectionMachine.TestCase
