"""Centrifugo's JSON protocol: its bytes (centrifugal.dev/docs/transports/client_protocol).

The tests for every wire protocol are in `tests/contract/test_wire_protocol.py`.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.core.codes import (
    BAD_COMMAND,
    METHOD_NOT_FOUND,
    NOT_AVAILABLE,
    NOT_LIVE,
    PERMISSION_DENIED,
    SUBSCRIPTION_EXPIRED,
)
from realtime.core.positions import Gap, Position
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
    centrifugo_commands,
)
from realtime.protocols.centrifugo_commands import COMMANDS_LIMIT, CommandLine, SubFields, read

POSITION = Position("0123456789abcdef", 42)


def bad(frame: str) -> BadFrame:
    with pytest.raises(BadFrame) as caught:
        read(frame)
    return caught.value


# ------------------------------------------------------------------ what clients say


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("{}", Pong()),
        ('{"id":1,"connect":{}}', Connect(1)),
        ('{"id":1,"connect":{"token":"t","name":"js","version":"5","flag":1}}', Connect(1, "t")),
        (
            '{"id":1,"connect":{"subs":{"c":{},"d":{"token":"t","join_leave":true,"recover":true,'
            '"epoch":"ab","offset":7}}}}',
            Connect(1, subs=(WantedChannel("c"), WantedChannel("d", "t", True, Position("ab", 7)))),
        ),
        ('{"id":1,"connect":{"subs":{"a b":{}}}}', Refused(1, BAD_COMMAND)),
        ('{"id":1,"connect":{"subs":[]}}', Refused(1, BAD_COMMAND)),
        ('{"id":2,"subscribe":{"channel":"c"}}', Subscribe(2, "c")),
        ('{"id":2,"subscribe":{"channel":"c","join_leave":true}}', Subscribe(2, "c", "", True)),
        (
            '{"id":2,"subscribe":{"channel":"c","recover":true,"epoch":"ab","offset":7}}',
            Subscribe(2, "c", position=Position("ab", 7)),
        ),
        ('{"id":2,"subscribe":{"channel":"c","epoch":"ab","offset":7}}', Subscribe(2, "c")),
        (
            '{"id":2,"subscribe":{"channel":"c","recover":true,"epoch":"X","offset":7}}',
            Subscribe(2, "c"),
        ),
        ('{"id":2,"subscribe":{"channel":"c","flag":1,"recover":true}}', Subscribe(2, "c")),
        ('{"id":3,"unsubscribe":{"channel":"c"}}', Unsubscribe(3, "c")),
        ('{"id":4,"publish":{"channel":"c","data":{"a":[1]}}}', Publish(4, "c", b'{"a":[1]}')),
        ('{"publish":{"data":null,"channel":"c"},"id":4}', Publish(4, "c", b"null")),
        ('{"id":5,"ping":{}}', Ping(5)),
        (' { "id" : 5 , "ping" : { } } ', Ping(5)),
        ('{"id":4294967295,"ping":{}}', Ping(2**32 - 1)),
        ('{"id":6,"history":{"channel":"c"}}', History(6, "c")),
        ('{"id":6,"history":{"channel":"c","limit":0}}', History(6, "c")),
        ('{"id":6,"history":{"channel":"c","limit":10}}', Refused(6, NOT_AVAILABLE)),
        ('{"id":6,"history":{"channel":"c","since":{"offset":1}}}', Refused(6, NOT_AVAILABLE)),
        ('{"id":6,"history":{"channel":"a b"}}', Refused(6, BAD_COMMAND)),
        ('{"id":7,"presence":{"channel":"c"}}', Presence(7, "c")),
        ('{"id":7,"presence_stats":{"channel":"c"}}', PresenceStats(7, "c")),
        ('{"id":7,"presence":{}}', Refused(7, BAD_COMMAND)),
        ('{"id":7,"presence":{"channel":"a b"}}', Refused(7, BAD_COMMAND)),
        ('{"id":7,"rpc":{"method":"m"}}', Call(7, "m", b"null")),
        ('{"id":7,"rpc":{"method":"m","data":[1]}}', Call(7, "m", b"[1]")),
        ('{"send":{"data":{"a":1}}}', Call(0, "", b'{"a":1}', wants_answer=False)),
        ('{"id":7}', Refused(7, METHOD_NOT_FOUND)),
        ('{"id":7,"ping":null}', Refused(7, METHOD_NOT_FOUND)),
        ('{"id":8,"subscribe":{}}', Refused(8, BAD_COMMAND)),
        ('{"id":8,"subscribe":"c"}', Refused(8, BAD_COMMAND)),
        ('{"id":8,"subscribe":{"channel":7}}', Refused(8, BAD_COMMAND)),
        ('{"id":8,"subscribe":{"channel":"a b"}}', Refused(8, BAD_COMMAND)),
        ('{"id":8,"unsubscribe":{"channel":""}}', Refused(8, BAD_COMMAND)),
        ('{"id":8,"publish":{"channel":"c"}}', Refused(8, BAD_COMMAND)),
        ('{"id":8,"publish":{"channel":"{0}","data":1}}', Refused(8, BAD_COMMAND)),
        ('{"id":8,"connect":[]}', Refused(8, BAD_COMMAND)),
        ('{"id":8,"connect":{}}}', Refused(8, BAD_COMMAND)),
    ],
)
def test_a_line_is_a_command(line, command):
    assert read(line) == [command]


@pytest.mark.parametrize(
    "line",
    [
        "x",
        "[]",
        "1",
        '"{}"',
        "null",
        "{",
        "{}{}",
        "{'id':1}",
        "\ufeff{}",
        '{"ping":{}}',
        '{"id":0,"ping":{}}',
        '{"id":-1,"ping":{}}',
        '{"id":"1","ping":{}}',
        '{"id":1.5,"ping":{}}',
        '{"id":true,"ping":{}}',
        '{"id":null,"ping":{}}',
        '{"id":[1],"ping":{}}',
        '{"id":1e400,"ping":{}}',
        '{"id":-1,"connect":[]}',
        '{"connect":[]}',
        '{"id":true,"connect":[]}',
    ],
)
def test_anything_but_an_object_with_an_id_is_a_bad_frame(line):
    assert bad(line).good == ()


@pytest.mark.parametrize("arguments", ["{}", "[]"])
@pytest.mark.parametrize("number", ["4294967296", "1" + "0" * 19, "9" * 30, "9" * 5000], ids=len)
def test_an_id_beyond_32_bits_is_a_bad_frame(number, arguments):
    """Only commands with wrong arguments were refused for it; others were answered."""
    assert bad(f'{{"id":{number},"ping":{arguments}}}').good == ()


@pytest.mark.parametrize(
    "line",
    [
        '{"id":9,"publish":{"channel":"c","data":"\\ud800"}}',
        '{"id":9,"publish":{"channel":"c","data":"\ud800"}}',
        '{"id":9,"subscribe":{"channel":"\\ud800"}}',
        '{"id":9,"subscribe":{"channel":"\udfff"}}',
    ],
    ids=ascii,
)
def test_a_lone_surrogate_is_refused_by_the_id_of_its_command(line):
    assert read(line) == [Refused(9, BAD_COMMAND)]


def test_a_lone_surrogate_without_an_id_before_it_is_a_bad_frame():
    assert bad('{"subscribe":{"channel":"\ud800"},"id":9}').good == ()
    assert bad('{"id":9999999999,"subscribe":{"channel":"\ud800"}}').good == ()


@pytest.mark.parametrize(
    "line", ['{"id":1,"x":' + "[" * 40_000, '{"id":1,"ping":' + '{"a":' * 15_000]
)
def test_a_nesting_bomb_is_only_refused(line):
    assert read(line) == [Refused(1, BAD_COMMAND)]


def is_struct(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, msgspec.Struct)


def test_nothing_from_a_client_is_decoded_as_any_value():
    """A frame of 160,000 lists in an ignored field took 7 ms, and counted as one command."""
    structs = [each for each in vars(centrifugo_commands).values() if is_struct(each)]
    assert CommandLine in structs
    fields = [field for struct in structs for field in msgspec.structs.fields(struct)]
    allowed = {int, str, bool, msgspec.Raw, dict[str, SubFields]}
    for field in fields:
        kinds = set(get_args(field.type)) if field.type not in allowed else set()
        assert all(kind is type(None) or is_struct(kind) for kind in kinds), field
        assert kinds or field.type in allowed, field


@pytest.mark.parametrize("since", ["null", "[]", '{"offset":1}', "1", '"x"'])
def test_a_request_for_history_since_a_position_is_refused(since):
    [command] = centrifugo.read('{"id":2,"history":{"channel":"c","since":' + since + "}}")
    assert command == (History(2, "c") if since == "null" else Refused(2, NOT_AVAILABLE))


@pytest.mark.parametrize(
    ("said", "number"), [("7", 7), ("07", 0), ("7.0", 0), ('"7"', 0), ("[]", 0), ("-7", 0)]
)
def test_the_id_of_a_command_with_wrong_arguments(said, number):
    line = '{"x":[[],[]],"subscribe":1,"id":' + said + "}"
    if number:
        assert centrifugo.read(line) == [Refused(7, BAD_COMMAND)]
    else:
        with pytest.raises(BadFrame):
            centrifugo.read(line)


def test_a_frame_holds_commands_in_order():
    frame = '{"id":1,"connect":{}}\n{}\n{"id":2,"subscribe":{"channel":"c"}}\n'
    assert read(frame) == [Connect(1), Pong(), Subscribe(2, "c")]


@pytest.mark.parametrize("frame", ["", "\n", "\n\n\n"])
def test_an_empty_frame_is_a_bad_frame(frame):
    assert bad(frame).reason == "the frame is empty"


def test_the_commands_before_a_bad_line_are_kept():
    error = bad('{"id":1,"connect":{}}\nx\n{"id":2,"ping":{}}')
    assert error.good == (Connect(1),)


def test_the_number_of_commands_in_a_frame_is_limited():
    most = "\n".join(['{"id":1,"ping":{}}'] * COMMANDS_LIMIT)
    assert len(read(most + "\n")) == COMMANDS_LIMIT
    error = bad(most + '\n{"id":2,"ping":{}}\n{}')
    assert len(error.good) == COMMANDS_LIMIT


def test_channels_named_in_connect_count_as_commands():
    """9,000 of them in one frame took 192 ms, and the reply had 737 KiB."""

    def connect(number: int) -> str:
        return json.dumps({"id": 1, "connect": {"subs": {f"c:{n}": {} for n in range(number)}}})

    [command] = read(connect(COMMANDS_LIMIT - 1))
    assert isinstance(command, Connect)
    error = bad(connect(COMMANDS_LIMIT))
    assert (error.limit, error.good) == ("commands_per_frame", ())
    error = bad(connect(COMMANDS_LIMIT - 1) + '\n{"id":2,"ping":{}}')
    assert (error.limit, error.good) == ("commands_per_frame", (command,))


def test_empty_lines_are_not_counted():
    """Beyond the limit of commands, the rest used to be parsed as one line."""
    frame = "\n" * (2 * COMMANDS_LIMIT) + '{"id":1,"connect":{}}\n{"id":2,"ping":{}}'
    assert read(frame) == [Connect(1), Ping(2)]


# ------------------------------------------------------------------ nothing but BadFrame

JSONISH = st.lists(
    st.sampled_from(
        [
            *(
                '{"id":',
                "1",
                "4294967296",
                "-1",
                "1.0",
                '"1"',
                ",",
                "}",
                "{",
                "[",
                "]",
                ":",
                "null",
            ),
            *('"connect":', '"subscribe":', '"channel":', '"c"', '"publish":', '"data":', "{}"),
            *(
                "\n",
                " ",
                "\\",
                '"',
                "\ud800",
                "\\ud800",
                "\\u0000",
                "é",
                "1e999",
                "9" * 5000,
                "true",
            ),
        ]
    ),
    max_size=14,
).map("".join)
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=40)


@given(JSONISH | ANY_TEXT)
def test_reading_raises_only_bad_frame(frame):
    with suppress(BadFrame):
        assert read(frame)


@given(st.data())
def test_reading_a_damaged_frame_raises_only_bad_frame(data):
    frame = '{"id":1,"connect":{}}\n{"id":2,"publish":{"channel":"c","data":{"a":[1,"b"]}}}'
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(frame)))
        cut = data.draw(st.integers(0, 3))
        frame = frame[:at] + data.draw(JSONISH | ANY_TEXT) + frame[at + cut :]
    try:
        commands = read(frame)
    except BadFrame as error:
        commands = list(error.good)
    ids = [command.id for command in commands if not isinstance(command, Pong)]
    assert all(0 < number < 2**32 for number in ids)


# ------------------------------------------------------------------ what clients hear


def test_the_ping_is_an_empty_object():
    assert centrifugo.PING == "{}"


def test_replies_look_like_this():
    assert centrifugo.encode_connect_reply(Connect(1), "me", "0.1", 25, None) == (
        '{"id":1,"connect":{"client":"me","version":"0.1","ping":25,"pong":true}}'
    )
    assert centrifugo.encode_connect_reply(Connect(1), "me", "0.1", 25, 60) == (
        '{"id":1,"connect":{"client":"me","version":"0.1","ping":25,"pong":true,"expires":true,"ttl":60}}'
    )
    assert centrifugo.encode_refresh_reply(Refresh(9, "t"), "me", "0.1", 60) == (
        '{"id":9,"refresh":{"client":"me","version":"0.1","expires":true,"ttl":60}}'
    )
    assert centrifugo.encode_refresh_reply(SubRefresh(9, "c", "t"), "me", "0.1", 60) == (
        '{"id":9,"sub_refresh":{"expires":true,"ttl":60}}'
    )
    assert centrifugo.encode_unsubscribe_push("c", SUBSCRIPTION_EXPIRED) == (
        '{"push":{"channel":"c","unsubscribe":{"code":2501,"reason":"expired"}}}'
    )
    assert centrifugo.encode_subscribe_reply(Subscribe(2, "c"), POSITION, None) == (
        '{"id":2,"subscribe":{"positioned":true,"recoverable":false,'
        '"epoch":"0123456789abcdef","offset":42}}'
    )
    assert centrifugo.encode_empty_reply(Unsubscribe(3, "c")) == '{"id":3,"unsubscribe":{}}'
    assert centrifugo.encode_empty_reply(Publish(4, "c", b"1")) == '{"id":4,"publish":{}}'
    assert centrifugo.encode_empty_reply(Ping(5)) == '{"id":5,"ping":{}}'


def test_refusals_look_like_this():
    assert centrifugo.encode_refusal(Ping(1), PERMISSION_DENIED) == (
        '{"id":1,"error":{"code":103,"message":"permission denied"}}'
    )
    assert centrifugo.encode_refusal(Ping(1), NOT_LIVE) == (
        '{"id":1,"error":{"code":100,"message":"the broker is unavailable","temporary":true}}'
    )
    assert (
        centrifugo.encode_refusal(None, BAD_COMMAND)
        == '{"error":{"code":107,"message":"bad request"}}'
    )


@pytest.mark.parametrize(
    ("body", "first_of_epoch", "pub"),
    [
        ('{"data":{"n":1}}', False, '{"offset":42,"data":{"n":1}}'),
        (
            '{"data":1,"tags":{"event":"e"}}',
            False,
            '{"offset":42,"data":1,"tags":{"event":"e"}}',
        ),
        ('{"data":null}', True, '{"offset":42,"epoch":"0123456789abcdef","data":null}'),
    ],
    ids=["plain", "with tags", "first of its epoch"],
)
def test_publications_look_like_this(body, first_of_epoch, pub):
    push = centrifugo.encode_publication("c", POSITION, body, first_of_epoch=first_of_epoch)
    assert push == '{"push":{"channel":"c","pub":' + pub + "}}"


def test_gaps_look_like_this():
    assert centrifugo.encode_gap("c", Gap("e", 5, 7), "slow") == (
        '{"push":{"channel":"c","gap":{"epoch":"e","from":5,"to":7,"reason":"slow"}}}'
    )
    assert (
        json.loads(centrifugo.encode_gap("c", Gap("e", 5, None), "broker"))["push"]["gap"]["to"]
        is None
    )


def test_states_look_like_this():
    assert centrifugo.encode_state("", live=True, reason=None) == '{"push":{"state":{"live":true}}}'
    assert centrifugo.encode_state("", live=False, reason="broker") == (
        '{"push":{"state":{"live":false,"reason":"broker"}}}'
    )


@pytest.mark.parametrize("character", ["x", "é", "\U0001f600"])
def test_a_frame_over_80_kib_is_refused_as_a_whole(character):
    fits = (
        f'{{"id":1,"ping":{{"x":"{character * ((80 * 1024 - 30) // len(character.encode()))}"}}}}'
    )
    assert centrifugo.read(fits)
    with pytest.raises(BadFrame, match="81920 bytes"):
        centrifugo.read(fits + "\n" + fits)
