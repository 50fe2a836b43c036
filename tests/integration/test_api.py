"""The responses of the HTTP API, on both rims, with a real Valkey.

Refused requests, none of which may reach Redis, are in test_api_hostile.py.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from django.test import override_settings

from realtime import errors
from realtime.api.answers import STATUSES
from realtime.client.events import ListeningError
from realtime.core.envelope import decode_envelope
from realtime.core.names import checked_channel, checked_event, checked_idempotency_key
from tests.support.machine import allowed
from tests.support.pubsub import published_so_far
from tests.support.redis_server import RedisServer
from tests.support.rims import RIMS, Rim, checked_error, refused


@pytest.fixture(params=RIMS)
def rim(request: pytest.FixtureRequest, node: Any) -> Rim:
    return Rim(request.param)


def heard(redis_server: RedisServer, prefix: str) -> Any:
    """Return a function that returns what has been published on the test's channels since."""
    listener = redis_server.client().pubsub(ignore_subscribe_messages=False)
    listener.psubscribe(f"{prefix}:*")
    assert listener.get_message(timeout=60)["type"] == "psubscribe"

    def messages() -> list[tuple[str, Any]]:
        got = []
        for message in published_so_far(listener):
            channel = message["channel"].decode().split(":ch:", 1)[1]
            got.append((channel, json.loads(decode_envelope(message["data"]).body)))
        return got

    return messages


# --- publish ---


async def test_a_publish_is_answered_with_its_position(rim: Rim, wired: str) -> None:
    first = await rim.post("publish", {"channel": "public:news", "data": {"n": 1}})
    second = await rim.post("publish", {"channel": "public:news", "data": {"n": 2}})
    assert first.result == {
        "offset": 1, "epoch": first.result["epoch"], "nodes": 0, "queued": False,
    }  # fmt: skip
    assert second.result == first.result | {"offset": 2}
    assert first.headers["content-type"] == "application/json"
    assert first.headers["cache-control"] == "no-store"
    assert first.headers["x-content-type-options"] == "nosniff"


async def test_published_data_arrives_unchanged(
    rim: Rim, wired: str, redis_server: RedisServer
) -> None:
    messages = heard(redis_server, wired)
    data = {"text": "ü \u2028 \x00 </script>", "n": [1, 2.5, None, True], "": {}}
    await rim.post(
        "publish",
        {"channel": "public:news", "data": data, "event": "order.shipped", "tags": {"a": "b"}},
    )
    tags = {"a": "b", "event": "order.shipped"}
    assert messages() == [("public:news", {"data": data, "tags": tags})]


@pytest.mark.parametrize("data", [None, 0, "", False, [], {}, 1e-9, 2**64 + 1, "x" * 65_534])
async def test_any_json_value_is_data(rim: Rim, data: Any) -> None:
    assert (await rim.post("publish", {"channel": "a", "data": data})).result["offset"] == 1


async def test_data_may_have_exactly_its_limit(rim: Rim) -> None:
    fits = await rim.post("publish", {"channel": "a", "data": "x" * (64 * 1024 - 2)})
    assert fits.status == 200
    refused(await rim.post("publish", {"channel": "a", "data": "x" * (64 * 1024 - 1)}), "too_large")


async def test_the_data_limit_counts_compact_json(rim: Rim) -> None:
    raw = b'{"channel":"a","data":[' + b" " * 70_000 + b"]}"
    assert (await rim.post("publish", raw)).status == 200


async def test_only_the_last_of_duplicate_members_is_published(
    rim: Rim, wired: str, redis_server: RedisServer
) -> None:
    """RFC 8259 §4 leaves this open.

    The delivered data is encoded again, so it has only one of them.
    """
    messages = heard(redis_server, wired)
    raw = b'{"channel":"secret","channel":"public:a","data":{"x":1,"x":2}}'
    assert (await rim.post("publish", raw)).status == 200
    assert messages() == [("public:a", {"data": {"x": 2}})]


async def test_options_of_centrifugo_about_history_are_ignored(rim: Rim) -> None:
    body = {"channel": "a", "data": 1, "skip_history": True, "delta": False}
    assert (await rim.post("publish", body)).status == 200


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "Application/JSON",
        "application/json; charset=utf-8",
        "application/json;",
    ],
)
async def test_json_content_types_are_accepted(rim: Rim, content_type: str) -> None:
    body = {"channel": "a", "data": 1}
    assert (await rim.post("publish", body, content_type=content_type)).status == 200


async def test_the_content_encoding_identity_is_accepted(rim: Rim) -> None:
    body = {"channel": "a", "data": 1}
    assert (await rim.post("publish", body, content_encoding="identity")).status == 200


async def test_null_means_that_a_field_is_absent(rim: Rim) -> None:
    body = {"channel": "a", "data": 1} | dict.fromkeys(
        ["event", "tags", "idempotency_key", "fallback"]
    )
    assert (await rim.post("publish", body)).status == 200


# --- idempotency ---


async def test_the_same_key_and_content_is_published_once(
    rim: Rim, wired: str, redis_server: RedisServer
) -> None:
    messages = heard(redis_server, wired)
    body = {"channel": "a", "data": 1, "idempotency_key": "k"}
    first = (await rim.post("publish", body)).result
    again = (await rim.post("publish", body)).result
    assert again == first | {"repeated": True}
    assert "repeated" not in first
    assert len(messages()) == 1


async def test_a_hundred_at_once_with_one_key_are_published_once(
    rim: Rim, wired: str, redis_server: RedisServer
) -> None:
    messages = heard(redis_server, wired)
    body = {"channel": "a", "data": 1, "idempotency_key": "k"}
    with override_settings(REALTIME_PUBLISH_SECONDS=10):  # this machine may be busy
        answers = await asyncio.gather(*[rim.post("publish", body) for _ in range(100)])
    assert {answer.status for answer in answers} == {200}
    assert sum("repeated" not in answer.result for answer in answers) == 1
    assert len(messages()) == 1


@pytest.mark.parametrize("changed", [{"data": 2}, {"event": "e"}, {"tags": {"a": "b"}}])
async def test_the_same_key_with_other_content_is_a_conflict(
    rim: Rim, wired: str, redis_server: RedisServer, changed: dict[str, Any]
) -> None:
    messages = heard(redis_server, wired)
    body = {"channel": "a", "data": 1, "idempotency_key": "k"}
    await rim.post("publish", body)
    refused(await rim.post("publish", body | changed), "idempotency_conflict")
    assert len(messages()) == 1


async def test_the_idempotency_header_equals_the_field(rim: Rim) -> None:
    body = {"channel": "a", "data": 1}
    assert (await rim.post("publish", body, idempotency_key="k")).status == 200
    again = await rim.post("publish", body | {"idempotency_key": "k"})
    assert again.result["repeated"] is True


async def test_the_header_is_used_when_the_field_is_null(rim: Rim) -> None:
    """`setdefault` kept the null, so a retry that sends all fields was published twice."""
    body = {"channel": "a", "data": 1, "idempotency_key": None}
    assert (await rim.post("publish", body, idempotency_key="k")).status == 200
    assert (await rim.post("publish", body, idempotency_key="k")).result["repeated"] is True


async def test_header_and_field_must_not_differ(rim: Rim) -> None:
    """Whichever we used, the publisher might rely on the other one."""
    body = {"channel": "a", "data": 1, "idempotency_key": "k"}
    refused(await rim.post("publish", body, idempotency_key="j"), "invalid_idempotency_key")


async def test_a_key_belongs_to_its_channel(rim: Rim) -> None:
    body = {"data": 1, "idempotency_key": "k"}
    for channel in ("a", "b"):
        answer = await rim.post("publish", body | {"channel": channel})
        assert "repeated" not in answer.result


# --- broadcast ---


async def test_a_broadcast_has_one_answer_for_each_channel(
    rim: Rim, wired: str, redis_server: RedisServer
) -> None:
    messages = heard(redis_server, wired)
    channels = ["public:a", "bad name", "public:b", "no-such-namespace:c", 7]
    answer = await rim.post("broadcast", {"channels": channels, "data": 1})
    good_a, bad, good_b, unknown, number = answer.result["responses"]
    assert good_a["result"]["offset"] == good_b["result"]["offset"] == 1
    for item in (bad, unknown, number):
        checked_error(item, "invalid_channel")
    assert messages() == [("public:a", {"data": 1}), ("public:b", {"data": 1})]


async def test_a_broadcast_to_only_invalid_channels_publishes_nothing(rim: Rim, wired: str) -> None:
    answer = await rim.post("broadcast", {"channels": ["a b", "{}"], "data": 1})
    for item in answer.result["responses"]:
        checked_error(item, "invalid_channel")


async def test_a_channel_named_twice_receives_the_publication_twice(rim: Rim) -> None:
    answer = await rim.post("broadcast", {"channels": ["a", "a"], "data": 1})
    assert [item["result"]["offset"] for item in answer.result["responses"]] == [1, 2]


async def test_a_channel_named_twice_receives_a_keyed_publication_once(rim: Rim) -> None:
    body = {"channels": ["a", "a"], "data": 1, "idempotency_key": "k"}
    first, again = (await rim.post("broadcast", body)).result["responses"]
    assert again["result"] == first["result"] | {"repeated": True}


@pytest.mark.parametrize("channels", [["a"], ["a", "b"], ["a", "not good"]])
async def test_a_conflict_in_a_broadcast_is_reported_for_its_channel(
    rim: Rim, channels: list[str]
) -> None:
    """A broadcast to one channel took the path of a single publish, and got 409 as a whole."""
    await rim.post("publish", {"channel": "a", "data": 1, "idempotency_key": "k"})
    body = {"channels": channels, "data": 2, "idempotency_key": "k"}
    answer = await rim.post("broadcast", body)
    checked_error(answer.result["responses"][0], "idempotency_conflict")
    assert len(answer.result["responses"]) == len(channels)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"channels": []}, "invalid_data"),
        ({"channels": "a"}, "invalid_data"),
        ({"channels": None}, "invalid_data"),
        ({"channels": ["a"] * 101}, "too_large"),
        ({"channel": "a"}, "invalid_data"),
        ({"data": "x" * 65_535}, "too_large"),
        ({"event": "bad event"}, "invalid_event"),
        ({"tags": {"a": 1}}, "invalid_tags"),
        ({"idempotency_key": ""}, "invalid_idempotency_key"),
        ({"fallback": "mail"}, "invalid_fallback"),
        ({"colour": "red"}, "invalid_data"),
    ],
)
async def test_an_error_common_to_all_channels_refuses_the_broadcast(
    rim: Rim, wired: str, redis_server: RedisServer, changed: dict[str, Any], reason: str
) -> None:
    body = {"channels": ["a", "b"], "data": 1} | changed
    refused(await rim.post("broadcast", body), reason)
    assert redis_server.client().keys(f"{wired}:*") == []


async def test_a_broadcast_without_data_is_refused(rim: Rim) -> None:
    refused(await rim.post("broadcast", {"channels": ["a"]}), "invalid_data")


async def test_a_hundred_channels_are_allowed(rim: Rim) -> None:
    channels = [f"public:{n}" for n in range(100)]
    answer = await rim.post("broadcast", {"channels": channels, "data": "x" * 60_000})
    assert [item["result"]["offset"] for item in answer.result["responses"]] == [1] * 100


# --- batch ---


async def test_a_batch_has_one_reply_for_each_command_in_order(
    rim: Rim, wired: str, redis_server: RedisServer
) -> None:
    messages = heard(redis_server, wired)
    commands: list[Any] = [
        {"publish": {"channel": "a", "data": 1}},
        {"publish": {"channel": "not good", "data": 2}},
        {"broadcast": {"channels": ["a", "b", "{c}"], "data": 3}},
        {"subscribe": {"channel": "a", "user": "42"}},
        {"publish": {"channel": "a"}},
        {"broadcast": {"channels": [], "data": 4}},
        "publish",
        {"publish": []},
        {},
        {"publish": {"channel": "a", "data": 5}, "broadcast": {"channels": ["a"], "data": 5}},
        {"publish": {"channel": "a", "data": 6, "idempotency_key": "k"}},
        {"publish": {"channel": "a", "data": 7, "idempotency_key": "k"}},
    ]
    answer = await rim.post("batch", {"commands": commands})
    assert answer.status == 200
    replies = answer.json["replies"]
    assert len(replies) == len(commands)
    assert replies[0]["publish"]["offset"] == 1
    checked_error(replies[1], "invalid_channel")
    to_a, to_b, to_c = replies[2]["broadcast"]["responses"]
    assert (to_a["result"]["offset"], to_b["result"]["offset"]) == (2, 1)
    checked_error(to_c, "invalid_channel")
    checked_error(replies[3], "method_not_found")
    for reply in replies[4:10]:
        checked_error(reply, "invalid_data")
    assert replies[10]["publish"]["offset"] == 3
    checked_error(replies[11], "idempotency_conflict")
    assert [data["data"] for _, data in messages()] == [1, 3, 3, 6]


@pytest.mark.parametrize("others", [0, 1])
async def test_a_conflict_in_a_batch_is_reported_for_its_command(rim: Rim, others: int) -> None:
    """A batch with a single publication got 409 as a whole."""
    await rim.post("publish", {"channel": "a", "data": 1, "idempotency_key": "k"})
    commands = [{"publish": {"channel": "a", "data": 2, "idempotency_key": "k"}}]
    commands += [{"publish": {"channel": "a", "data": 3}}] * others
    answer = await rim.post("batch", {"commands": commands})
    assert answer.status == 200
    checked_error(answer.json["replies"][0], "idempotency_conflict")


async def test_an_empty_batch_has_no_replies(rim: Rim, wired: str) -> None:
    answer = await rim.post("batch", {"commands": []})
    assert (answer.status, answer.json) == (200, {"replies": []})


async def test_a_batch_accepts_the_requests_of_the_centrifugo_client(rim: Rim) -> None:
    body = {"commands": [{"publish": {"channel": "a", "data": 1}}], "parallel": True}
    assert (await rim.post("batch", body)).status == 200


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({}, "invalid_data"),
        ({"commands": {}}, "invalid_data"),
        ({"commands": None}, "invalid_data"),
        ({"commands": [], "colour": 1}, "invalid_data"),
        ({"commands": [{}] * 101}, "too_large"),
        ({"commands": [{"broadcast": {"channels": ["a"] * 51, "data": 1}}] * 2}, "too_large"),
        ({"commands": [], "idempotency_key": "k"}, "invalid_idempotency_key"),
    ],
)
async def test_an_invalid_batch_is_refused_as_a_whole(
    rim: Rim, wired: str, redis_server: RedisServer, body: Any, reason: str
) -> None:
    refused(await rim.post("batch", body), reason)
    assert redis_server.client().keys(f"{wired}:*") == []


async def test_the_idempotency_header_is_refused_for_a_batch(rim: Rim) -> None:
    """It used to be accepted and ignored, so a retried batch was published twice."""
    body = {"commands": [{"publish": {"channel": "a", "data": 1}}]}
    refused(await rim.post("batch", body, idempotency_key="k"), "invalid_idempotency_key")


async def test_an_oversized_batch_is_refused_before_encoding(rim: Rim) -> None:
    """Counted after encoding, a hundred broadcasts to a hundred channels took 100 MB."""
    command = {"broadcast": {"channels": ["a"] * 100, "data": "x" * 9_000}}
    loop = asyncio.get_running_loop()
    started = loop.time()
    refused(await rim.post("batch", {"commands": [command] * 100}), "too_large")
    assert loop.time() - started < allowed(0.5, started)


@pytest.mark.parametrize(
    ("method", "body"),
    [
        ("broadcast", {"channels": [f"c{n}" for n in range(100)], "data": 1}),
        ("batch", {"commands": [{"publish": {"channel": f"c{n}", "data": 1}} for n in range(100)]}),
    ],
)
async def test_many_publications_take_one_round_trip(
    rim: Rim, wired: str, redis_server: RedisServer, method: str, body: Any
) -> None:
    """A single script publishes them all in one step, and reads Redis' history of writes once."""
    await rim.post(method, body)  # connects, loads the script, begins the channels' epochs
    before = _counts(redis_server)
    assert (await rim.post(method, body)).status == 200
    done = {name: n - before.get(name, 0) for name, n in _counts(redis_server).items()}
    its_own = 1  # `_counts` calls INFO, too
    assert (done["evalsha"], done["publish"], done["info"] - its_own) == (1, 100, 1)
    assert done.get("script|load", 0) == 0


def _counts(server: RedisServer) -> dict[str, int]:
    stats: dict[str, Any] = server.client().info("commandstats")
    return {name.removeprefix("cmdstat_"): stat["calls"] for name, stat in stats.items()}


# --- the table ---


def _all(error: type[errors.RealtimeError]) -> list[type[errors.RealtimeError]]:
    return [error, *(e for child in error.__subclasses__() for e in _all(child))]


def test_every_error_of_the_publishing_side_has_a_status() -> None:
    never_raised_as_such = {errors.RealtimeError, errors.BrokerError}
    delivering_side = {errors.EnvelopeError, errors.InvalidToken, errors.TokenExpired}
    delivering_side |= {errors.GiveUp, errors.PartlyDone}  # raised by a handler for its worker
    for error in set(_all(errors.RealtimeError)) - never_raised_as_such - delivering_side:
        if error is not ListeningError and isinstance(error.code, str):
            assert error.code in STATUSES, error


@pytest.mark.parametrize("check", [checked_channel, checked_event, checked_idempotency_key])
def test_every_name_that_can_be_invalid_has_a_status(check: Any) -> None:
    with pytest.raises(errors.InvalidName) as caught:
        check("\n")
    assert caught.value.code in STATUSES


def test_statuses_and_error_numbers_are_in_range() -> None:
    for status, number in STATUSES.values():
        assert 400 <= status < 600
        assert status != 500
        assert 100 <= number < 112 or number >= 1000
