"""What every wire protocol must do. A new one is finished when it passes here as well.

Add it to `PROTOCOLS` with a `Client`: the other end, as a stock SDK writes and reads the bytes.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple, Protocol, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realtime.codes import CLOSES, REFUSALS, SUBSCRIPTION_EXPIRED, Refusal
from realtime.gaps import Gap, Position
from realtime.membership import Headcount
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
    Wanted,
    WireProtocol,
    centrifugo,
)
from tests.unit.strategies import channels, json_values, positions, text


class Client(Protocol):
    """The other end of a protocol."""

    def write(self, command: Command) -> str:
        """Return the line that says this; data stays as it is written."""

    def read(self, line: str) -> dict[str, Any]:
        """Return what a line says, in the words below."""


class CentrifugoClient:
    """As centrifuge-js writes and reads."""

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
            case Call(id=0):
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


def _wish(wanted: Subscribe | Wanted) -> dict[str, Any]:
    """Return what a client may say beside the channel that it wants."""
    position = wanted.position
    since = (
        {"recover": True, "epoch": position.epoch, "offset": position.offset} if position else {}
    )
    return {**_token(wanted), **({"join_leave": True} if wanted.join_leave else {}), **since}


class Case(NamedTuple):
    """A protocol and its other end."""

    protocol: WireProtocol
    client: Client


PROTOCOLS = {"centrifugo": Case(centrifugo, CentrifugoClient())}
every_protocol = pytest.mark.parametrize("case", PROTOCOLS.values(), ids=PROTOCOLS)
few = settings(max_examples=60, deadline=None, derandomize=True, database=None)

ids = st.integers(1, 2**32 - 1)
data = json_values().map(lambda value: msgspec.json.encode(value))
since = st.none() | positions().map(
    lambda position: position._replace(offset=position.offset % 2**53)
)
wishes = st.lists(
    st.builds(Wanted, channels(), text(), st.booleans(), since),
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
    Publish: st.builds(Publish, ids, channels(), data),
    History: st.builds(History, ids, channels()),
    Call: st.builds(Call, ids, text(), data) | st.builds(Call, st.just(0), st.just(""), data),
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


def test_every_command_has_a_case_here():
    assert {*COMMANDS, Refused} == set(get_args(Command))


@every_protocol
@few
@given(commands)
def test_what_a_client_writes_is_what_is_read(case, command):
    assert case.protocol.read(case.client.write(command)) == [command]


@every_protocol
@few
@given(st.lists(commands, min_size=1, max_size=5))
def test_lines_joined_are_commands_in_order(case, said):
    frame = "\n".join(map(case.client.write, said))
    assert case.protocol.read(frame) == said


@every_protocol
def test_a_method_that_does_not_exist_is_refused_by_its_id(case):
    line = case.client.write(Refused(7, Refusal(0, "")))
    [command] = case.protocol.read(line)
    assert (type(command), command.id) == (Refused, 7)


@every_protocol
@few
@given(st.text(st.characters(exclude_categories=()), max_size=50))
def test_reading_raises_nothing_but_bad_frame(case, frame):
    try:
        read = case.protocol.read(frame)
    except BadFrame as error:
        read = error.good
    assert all(isinstance(command, get_args(Command)) for command in read)


@every_protocol
@few
@given(st.lists(commands, max_size=3), st.sampled_from(["\x00", "\ud800", "]", "GET / HTTP/1.1"]))
def test_the_commands_before_a_bad_line_are_good(case, said, junk):
    frame = "\n".join([*map(case.client.write, said), junk])
    with pytest.raises(BadFrame) as caught:
        case.protocol.read(frame)
    assert list(caught.value.good) == said
    assert caught.value.reason


def one_line(line: str) -> str:
    assert "\n" not in line
    assert "\r" not in line
    assert line.encode()
    return line


@every_protocol
def test_a_ping_is_a_ping(case):
    assert case.client.read(one_line(case.protocol.PING)) == {"ping": True}


@every_protocol
@few
@given(ids, text(), text(), st.integers(1, 3600), ttls)
def test_the_reply_to_connect_says_who_and_how_often(case, number, client, version, seconds, ttl):
    reply = case.protocol.connected(number, client, version, seconds, ttl)
    heard = case.client.read(one_line(reply))
    assert (heard.get("expires", False), heard.get("ttl")) == (ttl is not None, ttl)
    assert heard["answers"] == number
    assert (heard["client"], heard["version"], heard["ping"]) == (client, version, seconds)


@every_protocol
@few
@given(ids, text(), channels(), ttls)
def test_the_reply_to_a_new_token_says_how_long_it_holds(case, number, token, channel, ttl):
    for command in (Refresh(number, token), SubRefresh(number, channel, token)):
        heard = case.client.read(one_line(case.protocol.refreshed(command, "me", "1", ttl)))
        assert heard["answers"] == number
        assert (heard.get("expires", False), heard.get("ttl")) == (ttl is not None, ttl)


@every_protocol
@few
@given(channels())
def test_a_subscription_that_ends_says_why(case, channel):
    heard = case.client.read(one_line(case.protocol.unsubscribed(channel, SUBSCRIPTION_EXPIRED)))
    assert heard == {"channel": channel, "code": 2501, "reason": "expired"}


@every_protocol
@pytest.mark.parametrize("close", CLOSES, ids=lambda close: close.reason)
def test_a_connection_that_ends_says_why(case, close):
    heard = case.client.read(one_line(case.protocol.disconnected(close)))
    assert (heard["code"], heard["reason"]) == close


@every_protocol
@few
@given(ids, positions(), ttls)
def test_the_reply_to_subscribe_says_where_the_channel_stands(case, number, position, ttl):
    heard = case.client.read(one_line(case.protocol.subscribed(number, position, ttl)))
    assert (heard.get("expires", False), heard.get("ttl")) == (ttl is not None, ttl)
    assert heard["answers"] == number
    assert (heard["epoch"], heard["offset"]) == position


@every_protocol
@few
@given(channels(), positions())
def test_a_served_subscription_says_where_the_channel_stands(case, channel, position):
    heard = case.client.read(one_line(case.protocol.served(channel, position)))
    assert (heard["channel"], heard["epoch"], heard["offset"]) == (channel, *position)


@every_protocol
@few
@given(ids, positions())
def test_where_a_channel_stands_can_be_told(case, number, position):
    heard = case.client.read(one_line(case.protocol.stands(number, position)))
    assert heard == {"answers": number, "epoch": position.epoch, "offset": position.offset}


@every_protocol
@few
@given(ids, positions(), st.booleans())
def test_who_says_where_it_stands_hears_whether_it_has_all(case, number, position, has_all):
    reply = case.protocol.subscribed(number, position, None, has_all=has_all)
    heard = case.client.read(one_line(reply))
    assert (heard["was_recovering"], heard["recovered"]) == (True, has_all)


INFO = '{"user":"ada","client":"1","conn_info":{"name":"Ada"}}'


@every_protocol
@few
@given(ids, numbers, numbers)
def test_who_is_here_can_be_told(case, number, clients, users):
    heard = case.client.read(one_line(case.protocol.present(number, f'{{"1":{INFO}}}')))
    assert heard == {"answers": number, "presence": {"1": json.loads(INFO)}}
    heard = case.client.read(one_line(case.protocol.counted(number, Headcount(clients, users))))
    assert heard == {"answers": number, "num_clients": clients, "num_users": users}


@every_protocol
@few
@given(channels(), st.none() | st.integers(0, 2**53))
def test_who_comes_and_goes_can_be_told(case, channel, untold):
    for push in (case.protocol.joined(channel, INFO), case.protocol.left(channel, INFO)):
        heard = case.client.read(one_line(push))
        assert heard == {"channel": channel, "info": json.loads(INFO)}
    heard = case.client.read(one_line(case.protocol.headcount(channel, Headcount(3, 2), untold)))
    assert heard == {"channel": channel, "num_clients": 3, "num_users": 2, "untold": untold}


@every_protocol
@few
@given(data, ttls)
def test_what_is_on_no_channel_can_be_told(case, said, ttl):
    heard = case.client.read(one_line(case.protocol.message(said.decode())))
    assert heard == {"channel": None, "data": json.loads(said)}
    heard = case.client.read(one_line(case.protocol.prolonged(ttl)))
    assert (heard.get("expires", False), heard.get("ttl")) == (ttl is not None, ttl)


@every_protocol
@few
@given(ids, data)
def test_what_the_host_answers_arrives_whole(case, number, answer):
    heard = case.client.read(one_line(case.protocol.answered(number, answer.decode())))
    assert heard == {"answers": number, "data": json.loads(answer)}


@every_protocol
def test_a_subscription_that_goes_on_is_answered_without_a_position(case):
    heard = case.client.read(one_line(case.protocol.subscribed(7, None, None)))
    assert heard == {"answers": 7}


@every_protocol
@few
@given(st.one_of(COMMANDS[Unsubscribe], COMMANDS[Publish], COMMANDS[Ping]))
def test_what_is_done_is_answered_by_its_id(case, command):
    heard = case.client.read(one_line(case.protocol.done(command)))
    assert heard == {"answers": command.id}


@every_protocol
@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.message)
def test_a_refusal_says_why_and_whether_to_try_again(case, refusal):
    heard = case.client.read(one_line(case.protocol.refused(7, refusal)))
    assert (heard["answers"], heard["code"], heard["message"]) == (7, refusal.code, refusal.message)
    assert heard.get("temporary", False) == refusal.temporary


@every_protocol
def test_a_refusal_of_what_had_no_id_can_be_told(case):
    assert case.client.read(one_line(case.protocol.refused(0, REFUSALS[0])))["answers"] is None


@every_protocol
@few
@given(channels(), positions(), bodies, st.booleans())
def test_a_publication_arrives_whole(case, channel, position, body, first_of_epoch):
    push = case.protocol.publication(channel, position, body, first_of_epoch=first_of_epoch)
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
    heard = case.client.read(one_line(case.protocol.gap(channel, gap, reason)))
    assert heard == {
        "channel": channel,
        "epoch": gap.epoch,
        "from": gap.first,
        "to": gap.last,
        "reason": reason,
    }


@every_protocol
@pytest.mark.parametrize(("live", "reason"), [(True, None), (False, "broker")])
def test_the_state_says_whether_the_node_hears_the_broker(case, live, reason):
    heard = case.client.read(one_line(case.protocol.state(live=live, reason=reason)))
    assert (heard["live"], heard.get("reason")) == (live, reason)


@every_protocol
def test_a_push_is_the_same_text_for_everybody(case):
    position, body = Position("0" * 16, 1), '{"data":1,"tags":{"a":"b"}}'
    pushes = {
        case.protocol.publication("c", position, body, first_of_epoch=False) for _ in range(3)
    }
    assert len(pushes) == 1


@every_protocol
def test_a_frame_that_is_only_a_pong_is_read_as_one(case):
    assert case.protocol.read(case.protocol.PONG) == [Pong()]
