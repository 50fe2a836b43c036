"""What every wire protocol must do. A new one is finished when it passes these tests.

Add it to `PROTOCOLS` with a `Client`: the other end, which writes and reads the bytes like a stock
SDK. `tests.support.plain_protocol`, which exists only for tests, differs from Centrifugo's wherever
possible.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, get_args

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from realtime.core.codes import (
    CLOSES,
    REFUSALS,
    SUBSCRIPTION_EXPIRED,
    Close,
    Refusal,
)
from realtime.core.members import Headcount
from realtime.core.positions import Gap, Position
from realtime.protocols import (
    BadFrame,
    Call,
    Command,
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
    WireProtocol,
    centrifugo,
)
from tests.support import plain_protocol
from tests.unit.strategies import channels, json_values, positions, text


class Client(Protocol):
    """The other end of a protocol."""

    def sayable(self, command: Command) -> Command | None:
        """Return a command as it arrives; None if the protocol cannot express it."""

    def frames(self, lines: Sequence[str]) -> list[str]:
        """Return the frames in which these lines are sent."""

    def lines(self, frame: str) -> list[str]:
        """Return the lines of a received frame."""

    def names(self, command: Command | None) -> object:
        """Return how a reply names the command that it answers."""

    def close_code(self, code: int) -> int:
        """Return the code of the close frame for one of ours."""

    def write(self, command: Command) -> str:
        """Return the line for a command; data is unchanged."""

    def read(self, line: str) -> dict[str, Any]:
        """Return the meaning of a line, in the terms below."""


class CentrifugoClient:
    """Writes and reads like centrifuge-js."""

    def sayable(self, command: Command) -> Command | None:
        return command

    def frames(self, lines: Sequence[str]) -> list[str]:
        return ["\n".join(lines)]

    def lines(self, frame: str) -> list[str]:
        return frame.split("\n")

    def names(self, command: Command | None) -> object:
        return None if command is None or isinstance(command, Pong) else command.id

    def close_code(self, code: int) -> int:
        return code

    def write(self, command: Command) -> str:
        match command:
            case Pong():
                return "{}"
            case Ping():
                body = "{}"
            case Refresh():
                body = json.dumps(_token(command))
            case SubRefresh():
                named = {"channel": command.channel, "token": command.token}
                return json.dumps({"id": command.id, "sub_refresh": named})
            case Connect():
                body = json.dumps(
                    {"subs": {w.channel: _wish(w) for w in command.subs}, **_token(command)}
                )
            case Subscribe():
                body = json.dumps({"channel": command.channel, **_wish(command)})
            case PresenceStats():
                return f'{{"id":{command.id},"presence_stats":{{"channel":"{command.channel}"}}}}'
            case Call(wants_answer=False):
                return f'{{"send":{{"data":{command.data.decode()}}}}}'
            case Call():
                asked = f'{{"method":{json.dumps(command.method)},"data":{command.data.decode()}}}'
                return f'{{"id":{command.id},"rpc":{asked}}}'
            case History() | Presence() | Unsubscribe():
                body = json.dumps({"channel": command.channel})
            case Publish():
                body = f'{{"channel":{json.dumps(command.channel)},"data":{command.data.decode()}}}'
            case Refused():
                return f'{{"id":{command.id},"no_such_method":{{}}}}'
        return f'{{"id":{command.id},"{type(command).__name__.lower()}":{body}}}'

    def read(self, line: str) -> dict[str, Any]:
        said = json.loads(line, parse_constant=pytest.fail)
        if said == {}:
            return {"ping": True}
        if "push" not in said:
            answer = {"answers": said.get("id")}
            for key in (
                "error",
                "connect",
                "subscribe",
                "refresh",
                "sub_refresh",
                "history",
                "rpc",
                "presence",
                "presence_stats",
            ):
                answer |= said.get(key, {})
            return answer
        push = said["push"]
        told: dict[str, Any] = {"channel": push.get("channel")}
        for key in (
            *("pub", "join", "leave", "presence", "gap", "state", "message"),
            *("subscribe", "unsubscribe", "disconnect", "refresh"),
        ):
            told |= push.get(key, {})
        return told


def _token(command: Any) -> dict[str, Any]:
    return {"token": command.token} if command.token else {}


def _wish(wanted: Subscribe | WantedChannel) -> dict[str, Any]:
    """Return a command that a client may send, besides naming the channel that it wants."""
    position = wanted.position
    since = (
        {"recover": True, "epoch": position.epoch, "offset": position.offset} if position else {}
    )
    return {**_token(wanted), **({"join_leave": True} if wanted.join_leave else {}), **since}


class Case(NamedTuple):
    """A protocol and its other end."""

    protocol: WireProtocol
    client: Client


PROTOCOLS = {
    "centrifugo": Case(centrifugo, CentrifugoClient()),
    "plain": Case(plain_protocol, plain_protocol.PlainClient()),
}
every_protocol = pytest.mark.parametrize("case", PROTOCOLS.values(), ids=PROTOCOLS)
few = settings(max_examples=60, deadline=None, derandomize=True, database=None)

ids = st.integers(1, 2**32 - 1)
data = json_values().map(lambda value: msgspec.json.encode(value))
since = st.none() | positions().map(
    lambda position: position._replace(offset=position.offset % 2**53)
)
wishes = st.lists(
    st.builds(WantedChannel, channels(), text(), st.booleans(), since),
    max_size=3,
    unique_by=lambda wanted: wanted.channel,
)
COMMANDS = {
    Connect: st.builds(Connect, ids, text(), wishes.map(tuple)),
    Subscribe: st.builds(Subscribe, ids, channels(), text(), st.booleans(), since),
    Presence: st.builds(Presence, ids, channels()),
    PresenceStats: st.builds(PresenceStats, ids, channels()),
    Refresh: st.builds(Refresh, ids, text()),
    SubRefresh: st.builds(SubRefresh, ids, channels(), text()),
    Unsubscribe: st.builds(Unsubscribe, ids, channels()),
    Publish: st.builds(Publish, ids, channels(), data, st.none()),
    History: st.builds(History, ids, channels()),
    Call: st.builds(Call, ids, text(), data, st.just(True))
    | st.builds(Call, st.just(0), st.just(""), data, st.just(False)),
    Ping: st.builds(Ping, ids),
    Pong: st.just(Pong()),
}
commands = st.one_of(*COMMANDS.values())
bodies = st.builds(
    lambda data, tags: msgspec.json.encode({"data": msgspec.Raw(data), **tags}).decode(),
    data,
    st.just({}) | st.dictionaries(channels(), text(), min_size=1).map(lambda tags: {"tags": tags}),
)
numbers = st.integers(1, 2**53)
ttls = st.none() | st.integers(1, 10**9)


def test_every_command_has_a_test_case():
    assert {*COMMANDS, Refused} == set(get_args(Command))


@every_protocol
@few
@given(commands)
def test_commands_are_read_as_the_client_wrote_them(case, command):
    command = case.client.sayable(command)
    assume(command is not None)
    assert case.protocol.read(case.client.write(command)) == [command]


@every_protocol
@few
@given(st.lists(commands, min_size=1, max_size=5))
def test_commands_are_read_in_line_order(case, said):
    said = [command for command in map(case.client.sayable, said) if command is not None]
    frames = case.client.frames([case.client.write(command) for command in said]) if said else []
    assert [command for frame in frames for command in case.protocol.read(frame)] == said


@every_protocol
@few
@given(st.lists(bodies, min_size=1, max_size=5))
def test_commands_keep_their_order_across_frames(case, said):
    lines = [
        case.protocol.encode_publication("c", Position("0" * 16, n), body, first_of_epoch=False)
        for n, body in enumerate(said, 1)
    ]
    frames = case.protocol.frames("\n".join(lines))
    assert [line for frame in frames for line in case.client.lines(frame)] == lines


@every_protocol
def test_an_unknown_method_is_refused_by_its_id(case):
    line = case.client.write(Refused(7, Refusal(0, "")))
    [command] = case.protocol.read(line)
    assert isinstance(command, Refused)
    assert command.refusal.code


@every_protocol
@few
@given(st.text(st.characters(exclude_categories=()), max_size=50))
def test_reading_raises_only_bad_frame(case, frame):
    try:
        read = case.protocol.read(frame)
    except BadFrame as error:
        read = error.good
    assert all(isinstance(command, get_args(Command)) for command in read)


@every_protocol
@few
@given(st.lists(commands, max_size=3), st.sampled_from(["\x00", "\ud800", "]", "GET / HTTP/1.1"]))
def test_the_commands_before_a_bad_line_are_kept(case, said, junk):
    said = [command for command in map(case.client.sayable, said) if command is not None]
    *_, frame = case.client.frames([*map(case.client.write, said), junk])
    with pytest.raises(BadFrame) as caught:
        case.protocol.read(frame)
    assert list(caught.value.good) == (said if len(case.client.frames(["", ""])) == 1 else [])
    assert caught.value.reason


def one_line(line: str) -> str:
    assert "\n" not in line
    assert "\r" not in line
    assert line.encode()
    return line


@every_protocol
def test_a_ping_reads_as_a_ping(case):
    assert case.client.read(one_line(case.protocol.PING)) == {"ping": True}


@every_protocol
@few
@given(ids, text(), text(), st.integers(1, 3600), ttls)
def test_the_connect_reply_has_the_client_id_and_the_ping_interval(
    case, number, client, version, seconds, ttl
):
    reply = case.protocol.encode_connect_reply(Connect(number), client, version, seconds, ttl)
    heard = case.client.read(one_line(reply))
    assert (heard.get("expires", False), heard.get("ttl")) == (ttl is not None, ttl)
    assert heard.get("answers") == (number if "answers" in heard else None)
    assert (heard["client"], heard["version"], heard["ping"]) == (client, version, seconds)


@every_protocol
@few
@given(ids, text(), channels(), ttls)
def test_the_refresh_reply_says_how_long_the_token_is_valid(case, number, token, channel, ttl):
    for command in (Refresh(number, token), SubRefresh(number, channel, token)):
        reply = case.protocol.encode_refresh_reply(command, "me", "1", ttl)
        if not reply:
            continue  # the protocol has no such text
        heard = case.client.read(one_line(reply))
        assert heard["answers"] == case.client.names(command)
        assert (heard.get("expires", False), heard.get("ttl")) == (ttl is not None, ttl)


@every_protocol
@few
@given(channels())
def test_a_subscription_that_ends_says_why(case, channel):
    heard = case.client.read(
        one_line(case.protocol.encode_unsubscribe_push(channel, SUBSCRIPTION_EXPIRED))
    )
    assert heard == {"channel": channel, "code": 2501, "reason": "expired"}


@every_protocol
@pytest.mark.parametrize("close", [*CLOSES, Close(4600, "moved")], ids=lambda close: close.reason)
def test_a_connection_that_ends_says_why(case, close):
    for reason_arrives in (True, False):
        text, told = case.protocol.encode_goodbye(close, reason_arrives=reason_arrives)
        assert (told.code, told.reason) == (case.client.close_code(close.code), close.reason)
        if text:
            heard = case.client.read(one_line(text))
            assert (heard["code"], heard["reason"]) == close
        assert text or reason_arrives or close.reconnect, "the client would reconnect anyway"


@every_protocol
@given(st.integers(0, 2**128 - 1), st.integers(0, 2**128 - 1))
def test_every_connection_has_its_own_id(case, one, other):
    mask = ~(0xF << 76 | 0x3 << 62)  # what a UUID keeps for its version and variant
    first, second = case.protocol.client_id(one), case.protocol.client_id(other)
    assert re.fullmatch(r"[0-9A-Za-z._-]{1,64}", first)
    assert case.protocol.client_id(one) == first
    assert first != second or one & mask == other & mask


@every_protocol
def test_commands_implied_by_a_new_connection_can_be_answered(case):
    for command in case.protocol.opening():
        assert isinstance(command, get_args(Command))
        case.client.read(one_line(case.protocol.encode_refusal(command, REFUSALS[0])))


@every_protocol
@pytest.mark.parametrize("status", [400, 403, 429, 503])
def test_a_rejected_client_is_notified_in_exactly_one_way(case, status):
    told = case.protocol.refuse_after_accept(status, "why")
    if told is not None:
        text, close = told
        assert case.client.read(one_line(text))["reason"] == "why"
        assert 4000 <= close.code < 5000


@every_protocol
@few
@given(ids, positions(), ttls)
def test_the_subscribe_reply_has_the_position_of_the_channel(case, number, position, ttl):
    reply = case.protocol.encode_subscribe_reply(Subscribe(number, "c"), position, ttl)
    heard = case.client.read(one_line(reply))
    assert (heard.get("expires", False), heard.get("ttl")) == (ttl is not None, ttl)
    assert heard["answers"] == case.client.names(Subscribe(number, "c"))
    assert (heard["epoch"], heard["offset"]) == position


@every_protocol
@few
@given(channels(), positions())
def test_a_served_subscription_has_the_position_of_the_channel(case, channel, position):
    heard = case.client.read(one_line(case.protocol.encode_subscribe_push(channel, position)))
    where = heard.get("channel", heard.get("answers"))
    assert (where, heard["epoch"], heard["offset"]) == (channel, *position)


@every_protocol
@few
@given(ids, positions())
def test_the_position_of_a_channel_can_be_reported(case, number, position):
    command = History(number, "c")
    heard = case.client.read(one_line(case.protocol.encode_history_reply(command, position)))
    assert heard.pop("answers") == case.client.names(command)
    assert heard == {"epoch": position.epoch, "offset": position.offset}


@every_protocol
@few
@given(ids, positions(), st.booleans())
def test_a_client_that_sends_its_position_learns_whether_it_missed_anything(
    case, number, position, has_all
):
    reply = case.protocol.encode_subscribe_reply(
        Subscribe(number, "c"), position, None, has_all=has_all
    )
    heard = case.client.read(one_line(reply))
    assert (heard["was_recovering"], heard["recovered"]) == (True, has_all)


INFO = '{"user":"ada","client":"1","conn_info":{"name":"Ada"}}'


@every_protocol
@few
@given(ids, numbers, numbers)
def test_presence_can_be_reported(case, number, clients, users):
    reply = case.protocol.encode_presence_reply(Presence(number, "c"), f'{{"1":{INFO}}}')
    heard = case.client.read(one_line(reply))
    name = case.client.names(Presence(number, "c"))
    assert heard == {"answers": name, "presence": {"1": json.loads(INFO)}}
    reply = case.protocol.encode_presence_stats_reply(
        PresenceStats(number, "c"), Headcount(clients, users)
    )
    heard = case.client.read(one_line(reply))
    assert heard == {"answers": name, "num_clients": clients, "num_users": users}


@every_protocol
@few
@given(channels(), st.none() | st.integers(0, 2**53))
def test_joins_and_leaves_can_be_reported(case, channel, untold):
    for push in (
        case.protocol.encode_join(channel, INFO),
        case.protocol.encode_leave(channel, INFO),
    ):
        heard = case.client.read(one_line(push))
        assert heard == {"channel": channel, "info": json.loads(INFO)}
    heard = case.client.read(
        one_line(case.protocol.encode_headcount(channel, Headcount(3, 2), untold))
    )
    assert heard == {"channel": channel, "num_clients": 3, "num_users": 2, "untold": untold}


@every_protocol
@few
@given(data, ttls)
def test_a_message_without_a_channel_can_be_sent(case, said, ttl):
    heard = case.client.read(one_line(case.protocol.encode_message(said.decode())))
    assert heard.get("channel") is None
    assert heard["data"] == json.loads(said)
    heard = case.client.read(one_line(case.protocol.encode_refresh_push(ttl)))
    assert (heard.get("expires", False), heard.get("ttl")) == (ttl is not None, ttl)


@every_protocol
@few
@given(ids, data)
def test_the_answer_of_the_host_arrives_unchanged(case, number, answer):
    heard = case.client.read(
        one_line(case.protocol.encode_call_reply(Call(number, "m", b"1"), answer.decode()))
    )
    assert heard == {
        "answers": case.client.names(Call(number, "m", b"1")),
        "data": json.loads(answer),
    }


@every_protocol
def test_a_continued_subscription_is_confirmed_without_a_position(case):
    heard = case.client.read(
        one_line(case.protocol.encode_subscribe_reply(Subscribe(7, "c"), None, None))
    )
    assert heard == {"answers": case.client.names(Subscribe(7, "c"))}


@every_protocol
@few
@given(st.one_of(COMMANDS[Unsubscribe], COMMANDS[Publish], COMMANDS[Ping]))
def test_a_successful_command_is_confirmed_by_name_or_silently(case, command):
    if reply := case.protocol.encode_empty_reply(command):
        assert case.client.read(one_line(reply)) == {"answers": case.client.names(command)}


@every_protocol
@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.message)
def test_a_refusal_says_why_and_whether_to_try_again(case, refusal):
    command = Unsubscribe(7, "c")
    heard = case.client.read(one_line(case.protocol.encode_refusal(command, refusal)))
    assert heard["answers"] == case.client.names(command)
    assert (heard["code"], heard["message"]) == (refusal.code, refusal.message)
    assert heard.get("temporary", False) == refusal.temporary


@every_protocol
def test_the_refusal_of_an_unreadable_command_can_be_sent(case):
    assert (
        case.client.read(one_line(case.protocol.encode_refusal(None, REFUSALS[0])))["answers"]
        is None
    )


@every_protocol
@few
@given(channels(), positions(), bodies, st.booleans())
def test_a_publication_arrives_unchanged(case, channel, position, body, first_of_epoch):
    push = case.protocol.encode_publication(channel, position, body, first_of_epoch=first_of_epoch)
    heard = case.client.read(one_line(push))
    assert (heard["channel"], heard["offset"]) == (channel, position.offset)
    assert heard["data"] == json.loads(body)["data"]
    assert heard.get("tags") == json.loads(body).get("tags")
    assert heard.get("epoch") == (position.epoch if first_of_epoch else None)


@every_protocol
@few
@given(channels(), positions(), st.none() | numbers, st.sampled_from(["slow", "broker"]))
def test_a_gap_says_what_is_missing_and_why(case, channel, first, last, reason):
    gap = Gap(first.epoch, first.offset, last)
    heard = case.client.read(one_line(case.protocol.encode_gap(channel, gap, reason)))
    assert heard == {
        "channel": channel,
        "epoch": gap.epoch,
        "from": gap.first,
        "to": gap.last,
        "reason": reason,
    }


@every_protocol
@pytest.mark.parametrize("channel", ["", "chat:lobby"])
@pytest.mark.parametrize(("live", "reason"), [(True, None), (False, "broker")])
def test_the_state_says_whether_the_broker_is_connected(case, live, reason, channel):
    line = one_line(case.protocol.encode_state(channel, live=live, reason=reason))
    heard = case.client.read(line)
    assert (heard["live"], heard.get("reason"), heard.get("channel") or "") == (
        live,
        reason,
        channel,
    )


@every_protocol
def test_a_push_is_the_same_text_for_every_client(case):
    position, body = Position("0" * 16, 1), '{"data":1,"tags":{"a":"b"}}'
    pushes = {
        case.protocol.encode_publication("c", position, body, first_of_epoch=False)
        for _ in range(3)
    }
    assert len(pushes) == 1


@every_protocol
def test_a_frame_with_only_a_pong_is_read_as_a_pong(case):
    assert case.protocol.read(case.protocol.PONG) == [Pong()]
