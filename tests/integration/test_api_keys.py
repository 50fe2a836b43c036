"""The permissions of one key, on each rim: methods, channels, and a rate shared by all nodes."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from django.test import override_settings

import realtime
from realtime import wiring
from realtime.api import methods
from realtime.api.cloudevents import STRUCTURED
from realtime.api.key_debts import KeyDebts
from realtime.api.key_entries import NAMED
from realtime.api.keyring import Keyring
from realtime.api.keys import digest_of
from realtime.auth.watched_file import FILE_BYTES
from realtime.brokers.redis import RedisBroker
from realtime.brokers.redis_sync import SyncRedisBroker
from realtime.core.tally import Tally
from realtime.endpoint import HttpEndpoint
from realtime.errors import ConfigurationError, Unauthorized
from tests.support.eventually import eventually, eventually_sync
from tests.support.keys import entry, secret_of
from tests.support.logs import warnings_in
from tests.support.redis_server import RedisServer
from tests.support.rims import RIMS, Answer, Rim, checked_error, refused

SHOP = entry("shop", channels=["orders:*", "public:news"], methods=["publish", "batch"])
KEYS = [SHOP, entry("all"), entry("caster", channels=["public:*"], methods=["broadcast"])]


@pytest.fixture(params=RIMS)
def rim(request: pytest.FixtureRequest, node: Any) -> Iterator[Rim]:
    with override_settings(
        REALTIME_API_KEYS=KEYS, REALTIME_NAMESPACES={"orders": {}, "hidden": {}}
    ):
        yield Rim(request.param)


@pytest.fixture
def fresh_tallies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "_uses", Tally())
    monkeypatch.setattr(methods, "_refusals", Tally())
    monkeypatch.setattr(methods, "_debts", KeyDebts())


async def post(rim: Rim, name: str, method: str, body: Any, **changed: Any) -> Answer:
    return await rim.post(method, body, x_api_key=secret_of(name), **changed)


def publish(channel: str, **fields: Any) -> dict[str, Any]:
    return {"channel": channel, "data": 1} | fields


# --- methods and channels ---


async def test_each_key_may_do_exactly_what_it_lists(rim: Rim) -> None:
    assert (await post(rim, "shop", "publish", publish("orders:7"))).result["offset"] == 1
    assert (await post(rim, "all", "publish", publish("hidden:x"))).result["offset"] == 1
    assert (await rim.post("publish", publish("hidden:x"))).result["offset"] == 2, "the one key"
    body = {"channels": ["public:news"], "data": 1}
    assert (await post(rim, "caster", "broadcast", body)).status == 200
    refused(await post(rim, "caste", "broadcast", body), "unauthorized")


async def test_forbidden_channels_look_the_same_whether_they_exist_or_not(
    rim: Rim, wired: str, redis_server: RedisServer
) -> None:
    answers = [
        await post(rim, "shop", "publish", publish(channel, **fields))
        for channel in ("hidden:x", "nowhere:x", "orders:7:lines", "orders", "public:new")
        for fields in ({}, {"idempotency_key": "k"}, {"data": 1e300}, {"event": "not good"})
    ]
    answers.append(await post(rim, "shop", "broadcast", {"channels": ["orders:7"], "data": 1}))
    for answer in answers:
        refused(answer, "forbidden")
        assert answer.raw.replace(answer.json["request_id"].encode(), b"") == answers[
            0
        ].raw.replace(answers[0].json["request_id"].encode(), b"")
        heads = [dict(a.headers) for a in (answer, answers[0])]
        assert heads[0] == heads[1]
    assert redis_server.client().keys(f"{wired}:*") == []


async def test_a_forbidden_method_is_refused_before_the_body_is_read(rim: Rim) -> None:
    refused(await post(rim, "caster", "publish", b"no JSON"), "forbidden")


async def test_a_broadcast_reaches_only_permitted_channels(
    rim: Rim, wired: str, redis_server: RedisServer
) -> None:
    channels = ["public:a", "hidden:x", "public:b", "nowhere:x", "not good"]
    answer = await post(rim, "caster", "broadcast", {"channels": channels, "data": 1})
    first, hidden, second, nowhere, illegal = answer.result["responses"]
    assert first["result"]["offset"] == second["result"]["offset"] == 1
    assert hidden == nowhere
    checked_error(hidden, "forbidden")
    checked_error(illegal, "invalid_channel")
    known = {
        key.decode().split(":pos:")[1] for key in redis_server.client().keys(f"{wired}:*:pos:*")
    }
    assert known == {"public:a", "public:b"}


async def test_a_batch_executes_only_permitted_commands(
    rim: Rim, wired: str, redis_server: RedisServer
) -> None:
    commands: list[Any] = [
        {"publish": publish("orders:1")},
        {"publish": publish("hidden:x")},
        {"broadcast": {"channels": ["orders:1"], "data": 1}},
        {"publish": publish("nowhere:x")},
        {"publish": publish("orders:1")},
        {"publish": publish("orders:1", colour="red")},
    ]
    replies = (await post(rim, "shop", "batch", {"commands": commands})).json["replies"]
    assert [replies[n]["publish"]["offset"] for n in (0, 4)] == [1, 2]
    assert replies[1] == replies[2] == replies[3]
    checked_error(replies[1], "forbidden")
    checked_error(replies[5], "invalid_data")
    [known] = redis_server.client().keys(f"{wired}:*:pos:*")
    assert known.endswith(b":pos:orders:1")


async def test_a_batch_of_forbidden_commands_publishes_nothing(
    rim: Rim, wired: str, redis_server: RedisServer
) -> None:
    commands = [{"publish": publish("hidden:x")}] * 3
    answer = await post(rim, "shop", "batch", {"commands": commands})
    assert answer.status == 200
    for reply in answer.json["replies"]:
        checked_error(reply, "forbidden")
    assert redis_server.client().keys(f"{wired}:*") == []


# --- the rate ---


@pytest.fixture
def with_rate(rim: Rim, fresh_tallies: None) -> Iterator[Callable[[float], Any]]:
    contexts = []

    def limit(rate: float) -> None:
        keys = [entry("slow", rate=rate), entry("other", rate=rate)]
        contexts.append(override_settings(REALTIME_API_KEYS=keys))
        contexts[-1].enable()

    yield limit
    for context in contexts:
        context.disable()


async def test_a_key_over_its_rate_gets_retry_after(
    rim: Rim, with_rate: Any, wired: str, redis_server: RedisServer
) -> None:
    with_rate(0.1)
    assert (await post(rim, "slow", "publish", publish("a"))).status == 200
    answer = await post(rim, "slow", "publish", publish("a"))
    refused(answer, "rate_limited")
    assert 8 <= int(answer.headers["retry-after"]) <= 10
    assert (await post(rim, "other", "publish", publish("a"))).result["offset"] == 2
    assert (await rim.post("publish", publish("a"))).result["offset"] == 3, "without a rate"


async def test_a_batch_counts_its_publications_and_is_refused_as_a_whole(
    rim: Rim, with_rate: Any
) -> None:
    with_rate(5)
    commands: list[Any] = [{"publish": publish("a")}, {"publish": publish("not good")}]
    commands.append({"broadcast": {"channels": ["a", "b", "nowhere:x"], "data": 1}})
    answer = await post(rim, "slow", "batch", {"commands": commands})  # takes three
    assert answer.json["replies"][0]["publish"]["offset"] == 1
    answer = await post(rim, "slow", "batch", {"commands": commands})
    refused(answer, "rate_limited")
    assert answer.headers["retry-after"] == "1"
    assert (await rim.post("publish", publish("a"))).result["offset"] == 3


async def test_invalid_requests_take_no_tokens(rim: Rim, with_rate: Any) -> None:
    with_rate(0.1)
    refused(await post(rim, "slow", "publish", publish("nowhere:a")), "invalid_channel")
    assert (await post(rim, "slow", "publish", publish("a"))).status == 200


async def test_a_key_sends_invalid_requests_without_a_pause(rim: Rim, with_rate: Any) -> None:
    """To find out that 1 MiB of lists is invalid took 25 ms, as often as the key liked."""
    with_rate(0.1)
    lists = {"commands": [{"x": [[]] * 1000}]}
    for _ in range(3):
        assert (await post(rim, "slow", "batch", {"commands": []})).status == 200
    assert (await post(rim, "slow", "batch", lists)).status == 200, "each item has its own error"
    refused(await post(rim, "slow", "batch", b"no JSON"), "invalid_json")
    for body in (lists, b"no JSON", {"commands": [{"publish": publish("a")}]}):
        refused(await post(rim, "slow", "batch", body), "rate_limited")
    assert (await post(rim, "other", "publish", publish("a"))).status == 200


async def test_a_batch_larger_than_the_rate_is_published_and_owed(rim: Rim, with_rate: Any) -> None:
    with_rate(10)
    channels = [f"c{n}" for n in range(100)]
    assert (await post(rim, "slow", "broadcast", {"channels": channels, "data": 1})).status == 200
    answer = await post(rim, "slow", "publish", publish("a"))
    refused(answer, "rate_limited")
    assert 8 <= int(answer.headers["retry-after"]) <= 10


async def test_a_key_over_its_rate_keeps_sending_large_bodies(rim: Rim, with_rate: Any) -> None:
    """Each body took half a second of the event loop before it was refused.

    Now it is refused unread.
    """
    with_rate(1)
    channels = [f"c{n}" for n in range(100)]
    brackets = {"channels": channels, "data": [[]] * 21_000}
    assert (await post(rim, "slow", "broadcast", brackets)).status == 200
    refused(await post(rim, "slow", "broadcast", brackets), "rate_limited")
    for body in (b"[" * 400_000, b"no JSON"):
        answer = await post(rim, "slow", "broadcast", body)
        refused(answer, "rate_limited")
        assert 90 <= int(answer.headers["retry-after"]) <= 100
    refused(await post(rim, "other", "publish", b"no JSON"), "invalid_json")


async def test_a_retry_counts_against_the_rate(rim: Rim, with_rate: Any) -> None:
    """A retry costs as much as the first attempt, whose outcome is kept for it for five minutes."""
    with_rate(2)
    body = publish("a", idempotency_key="k")
    assert "repeated" not in (await post(rim, "slow", "publish", body)).result
    assert (await post(rim, "slow", "publish", body)).result["repeated"] is True
    refused(await post(rim, "slow", "publish", publish("a"), idempotency_key="k"), "rate_limited")


async def test_a_key_over_its_rate_logs_one_line_a_minute(
    rim: Rim, with_rate: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with_rate(0.001)
    for _ in range(5):
        await post(rim, "slow", "publish", publish("a"))
    lines = [
        record.getMessage() for record in caplog.records if record.name == "realtime.api.methods"
    ]
    [line] = [line for line in lines if "rate" in line]
    assert line.startswith("API key slow exceeded its rate of 0.001 per second: 1 requests refused")
    assert secret_of("slow") not in caplog.text


async def test_all_nodes_share_a_rate(redis_server: RedisServer, wired: str) -> None:
    """Two brokers stand for nodes in two loops, and a thread for another process."""
    nodes = [RedisBroker(redis_server.url, prefix=wired) for _ in range(2)]
    threads = SyncRedisBroker(redis_server.url, prefix=wired)
    taken = [await nodes[n % 2].take_from_rate("shop", 10, 1) == 0 for n in range(20)]
    taken += [threads.take_from_rate("shop", 10, 1) == 0 for _ in range(5)]
    assert taken[:10] == [True] * 10
    assert sum(taken) <= 11, "one more, where these few calls took a tenth of a second"
    assert await nodes[0].take_from_rate("other", 10, 1) == 0
    for node in nodes:
        await node.aclose()
    threads.close()


async def test_a_rate_recovers_at_the_configured_speed(
    redis_server: RedisServer, wired: str
) -> None:
    broker = RedisBroker(redis_server.url, prefix=wired)
    loop = asyncio.get_running_loop()
    began, taken = loop.time(), 0
    while (now := loop.time()) < began + 0.5:
        taken += await broker.take_from_rate("shop", 100, 1) == 0
    assert 100 <= taken <= 100 + 100 * (now - began) + 2
    key = f"{wired}:{{0}}:rate:shop"
    assert 0 < redis_server.client().pttl(key) <= 1100
    await broker.aclose()


async def test_a_clock_set_back_does_not_block_a_key_for_long(
    redis_server: RedisServer, wired: str
) -> None:
    broker = RedisBroker(redis_server.url, prefix=wired)
    redis_server.client().set(f"{wired}:{{0}}:rate:shop", "99999999999")
    assert 0 < await broker.take_from_rate("shop", 10, 1) <= 10
    await broker.aclose()


async def is_published(rim: Rim) -> bool:
    return (await post(rim, "slow", "publish", publish("a"))).status == 200


@pytest.mark.parametrize("how", ["kill", "freeze"])
async def test_an_unavailable_rate_limiter_is_503_and_publishes_nothing(
    own_redis: RedisServer, rim: Rim, with_rate: Any, how: str
) -> None:
    """A frozen Redis used to give 504, although only the rate had been queried."""
    with_rate(5)
    with override_settings(REALTIME_REDIS_URL=own_redis.url, REALTIME_PUBLISH_SECONDS=0.3):
        await wiring.aclose()
        # A busy machine may need longer than 0.3 s to connect.
        await eventually(partial(is_published, rim))
        await asyncio.to_thread(getattr(own_redis, how))
        answer = await post(rim, "slow", "publish", publish("a"))
        refused(answer, "broker_unavailable")
        assert answer.headers["retry-after"] == "1"
        if how == "freeze":
            own_redis.thaw()
        await wiring.aclose()


# --- idempotency keys ---


async def test_another_key_squats_an_idempotency_key(rim: Rim) -> None:
    """The owner used to get 409, or the receipt of another publisher's publication."""
    body = publish("public:news", idempotency_key="order-7-shipped")
    squat = {"channels": ["public:news"], "data": "other", "idempotency_key": "order-7-shipped"}
    assert (await post(rim, "caster", "broadcast", squat)).status == 200
    first = (await post(rim, "shop", "publish", body)).result
    assert first["offset"] == 2
    assert "repeated" not in first
    assert "repeated" not in (await post(rim, "all", "publish", body)).result
    again = (await post(rim, "shop", "publish", body)).result
    assert again == first | {"repeated": True}
    assert "repeated" not in (await rim.post("publish", body)).result, "nor the one key"


async def test_another_key_squats_the_source_and_id_of_an_event(rim: Rim) -> None:
    event = {"specversion": "1.0", "id": "7", "source": "/shop", "type": "t", "data": 1}
    event["channel"] = "public:news"
    keys = [entry(name, methods=["events"]) for name in ("shop", "rival")]
    with override_settings(REALTIME_API_KEYS=keys):

        async def send(name: str, **fields: Any) -> Answer:
            return await post(rim, name, "events", event | fields, content_type=STRUCTURED)

        assert (await send("rival", data="other")).status == 200
        assert (await send("shop")).result["offset"] == 2
        assert (await send("shop")).result["repeated"] is True


async def test_the_site_and_its_publishers_share_no_idempotency_keys(rim: Rim) -> None:
    body = publish("public:news", idempotency_key="k")
    assert (await post(rim, "shop", "publish", body)).status == 200
    receipt = await realtime.apublish("public:news", "other", idempotency_key="k")
    assert not receipt.repeated
    assert (await realtime.apublish("public:news", "other", idempotency_key="k")).repeated


async def test_a_retry_is_recognized_on_every_rim_and_after_key_rotation(node: Any) -> None:
    """A retry may reach another node, after the secret of the key was changed."""
    body = publish("public:news", idempotency_key="k")
    with override_settings(REALTIME_API_KEYS=[SHOP]):
        answers = [await post(Rim(kind), "shop", "publish", body) for kind in RIMS]
    changed = SHOP | {"sha256": entry("new")["sha256"]}
    with override_settings(REALTIME_API_KEYS=[changed]):
        answers += [await post(Rim(kind), "new", "publish", body) for kind in RIMS]
    assert {answer.result["offset"] for answer in answers} == {1}
    assert [answer.result.get("repeated") for answer in answers] == [None] + [True] * (
        2 * len(RIMS) - 1
    )


async def test_another_member_order_is_the_same_publication(rim: Rim) -> None:
    """RFC 8259 §4. In aws-powertools/powertools-lambda-python#638, the hash depended on the
    order."""
    body = publish("a", idempotency_key="k", data={"a": 1, "b": {"c": 1, "d": 2.0}})
    again = {**body, "data": {"b": {"d": 2, "c": 1}, "a": 1}}
    assert (await post(rim, "all", "publish", body)).status == 200
    assert (await post(rim, "all", "publish", again)).result["repeated"] is True
    other = {**body, "data": {"b": {"d": 1, "c": 2}, "a": 1}}
    refused(await post(rim, "all", "publish", other), "idempotency_conflict")


def test_a_key_that_relied_on_old_defaults_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    Keyring([entry("shop")])
    assert not warnings_in(caplog)
    Keyring([entry("shop"), entry("old", methods=None), entry("older", fallbacks=None)])
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith(
        "API keys with default permissions: keys without `methods` may only publish, "
    )
    assert line.endswith("old, older")


# --- the log ---


async def test_key_usage_is_logged_once_a_minute(
    rim: Rim, fresh_tallies: None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for _ in range(3):
        await post(rim, "shop", "publish", publish("orders:1"))
        await post(rim, "shop", "broadcast", {"channels": ["a"], "data": 1})
        await post(rim, "nobody", "publish", publish("orders:1"))
    lines = [
        record.getMessage() for record in caplog.records if record.name == "realtime.api.methods"
    ]
    assert lines == ["API key shop: 1 requests so far"]
    assert secret_of("shop") not in caplog.text
    assert SHOP["sha256"] not in caplog.text


# --- a file ---


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.json"
    write(path, entry("old"))
    return path


def write(path: Path, *entries: Any) -> None:
    """Replace the file by another one, as `createapikey` does."""
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(entries))
    draft.replace(path)


def knows(ring: Keyring, name: str) -> bool:
    try:
        return ring.admit(secret_of(name)).name == name
    except Unauthorized:
        return False


def test_keys_come_and_go_without_a_restart(keys_file: Path) -> None:
    ring = Keyring(f"@{keys_file}", and_one="one")
    assert knows(ring, "old")
    write(keys_file, entry("old"), entry("new"))
    eventually_sync(lambda: knows(ring, "new"), seconds=2)
    assert knows(ring, "old")
    write(keys_file, entry("new"))
    eventually_sync(lambda: not knows(ring, "old"), seconds=2)
    assert knows(ring, "new")
    assert ring.admit("one").name == "default"


async def test_a_withdrawn_key_is_refused_behind_a_head_that_is_known(
    node: Any, settings: Any, keys_file: Path
) -> None:
    settings.REALTIME_API_KEYS = f"@{keys_file}"
    endpoint = HttpEndpoint(None, api="/api/")  # type: ignore[arg-type]
    given = {"X-API-Key": secret_of("old"), "Content-Type": "application/json"}
    pairs = [(name.lower().encode(), text.encode()) for name, text in given.items()]
    work = endpoint.take_whole(b"/api/publish", pairs)
    assert work is not None
    body = json.dumps({"channel": "public:news", "data": 1}).encode()

    async def is_answered_with(status: int) -> bool:
        return (await work(body)).status == status

    assert await is_answered_with(200)
    assert await is_answered_with(200)
    write(keys_file, entry("old", rate=1))
    await eventually(lambda: is_answered_with(429), seconds=5)
    write(keys_file, entry("new"))
    await eventually(lambda: is_answered_with(401), seconds=5)
    write(keys_file, entry("old", methods=["info"]))
    await eventually(lambda: is_answered_with(403), seconds=5)


async def test_a_body_over_the_limit_does_not_refuse_those_behind_its_head(
    node: Any, settings: Any
) -> None:
    settings.REALTIME_API_KEYS = [entry("one")]
    settings.REALTIME_BODY_BYTES = 20_000
    endpoint = HttpEndpoint(None, api="/api/")  # type: ignore[arg-type]
    large, small = (
        json.dumps({"channel": "public:news", "data": "x" * size}).encode() for size in (30_000, 1)
    )
    given = {"X-API-Key": secret_of("one"), "Content-Type": "application/json"}
    given["Content-Length"] = str(len(large))
    pairs = [(name.lower().encode(), text.encode()) for name, text in given.items()]
    work = endpoint.take_whole(b"/api/publish", pairs)
    assert work is not None
    assert [(await work(body)).status for body in (large, small)] == [413, 200]


def test_an_emptied_file_leaves_no_key_valid(
    keys_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    alone, beside = Keyring(f"@{keys_file}"), Keyring(f"@{keys_file}", and_one="one")
    assert knows(alone, "old")
    assert knows(beside, "old")
    write(keys_file)
    eventually_sync(lambda: not knows(alone, "old") and not knows(beside, "old"), seconds=2)
    assert beside.admit("one").name == "default"
    with pytest.raises(Unauthorized, match="no API key is configured"):
        alone.admit("old")
    lines = [record.getMessage() for record in caplog.records]
    assert "reloaded the API keys: none left, all are withdrawn" in lines


def test_a_file_written_in_place_is_noticed_too(keys_file: Path) -> None:
    ring = Keyring(f"@{keys_file}")
    keys_file.write_text(json.dumps([entry("new")]), encoding="utf-8")
    eventually_sync(lambda: knows(ring, "new"), seconds=2)


def broken(path: Path, how: str) -> None:
    match how:
        case "half a file":
            path.write_text('[{"name": "old", "sha', encoding="utf-8")
        case "gone":
            path.unlink()
        case "a folder":
            path.unlink()
            path.mkdir()
        case "a pipe":
            path.unlink()
            os.mkfifo(path)
        case "too large":
            path.write_text(" " * FILE_BYTES + "[]", encoding="utf-8")
        case "no list":
            path.write_text(json.dumps({"keys": [entry("old")]}), encoding="utf-8")


@pytest.mark.parametrize(
    "how", ["half a file", "gone", "a folder", "a pipe", "too large", "no list"]
)
def test_a_broken_file_keeps_the_keys_and_is_logged_once(
    keys_file: Path, how: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("realtime.auth.watched_file.LOOK_EVERY_SECONDS", 0.0)
    caplog.set_level(logging.INFO, "realtime.auth.watched_file")
    ring = Keyring(f"@{keys_file}")
    broken(keys_file, how)
    eventually_sync(lambda: knows(ring, "old") and caplog.records)
    for _ in range(5):
        assert knows(ring, "old")
    [line] = caplog.records
    assert line.levelno == logging.ERROR
    assert line.getMessage().startswith(
        "could not reload the API keys, keeping the previous ones: REALTIME_API_KEYS: "
    )
    assert secret_of("old") not in caplog.text
    if keys_file.is_dir():
        keys_file.rmdir()
    write(keys_file, entry("new"))
    eventually_sync(lambda: knows(ring, "new"))
    assert caplog.records[-1].getMessage() == "reloaded the API keys: 1 in use"
    assert len(caplog.records) == 2


FLAWS = {
    "a secret for a digest": [entry("new") | {"sha256": secret_of("new")}],
    "no object": [7],
    "an unknown field": [entry("new", rights="all")],
    "one name twice": [entry("new"), entry("new") | {"sha256": entry("other")["sha256"]}],
    "one secret twice": [entry("new"), entry("other") | {"sha256": entry("new")["sha256"]}],
    "the withdrawn key itself": [entry("old", methods=["everything"])],
    "the name of the one key": [entry("default")],
    "the secret of the one key": [entry("new") | {"sha256": digest_of("one").hex()}],
}


@pytest.mark.parametrize("flawed", FLAWS.values(), ids=FLAWS)
def test_a_withdrawn_api_key_survives_beside_a_flaw_in_its_file(
    keys_file: Path, flawed: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """The whole old list used to stay valid as long as one entry of the new list was invalid."""
    ring = Keyring(f"@{keys_file}", and_one="one")
    write(keys_file, entry("kept"), *flawed)
    eventually_sync(lambda: knows(ring, "kept"), seconds=2)
    assert not any(knows(ring, name) for name in ("old", "new", "other"))
    assert ring.admit("one").name == "default"
    [line] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert line.getMessage().startswith("refused an API key with an invalid entry: ")
    assert secret_of("new") not in caplog.text


def test_endless_flaws_in_a_file_fill_the_log(
    keys_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ring = Keyring(f"@{keys_file}")
    write(keys_file, entry("kept"), *[7] * 1000)
    eventually_sync(lambda: knows(ring, "kept"), seconds=2)
    lines = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(lines) == NAMED + 1
    assert lines[-1].getMessage() == f"refused {1000 - NAMED} more API keys with invalid entries"


@pytest.mark.parametrize("how", ["half a file", "gone", "a folder", "a pipe", "too large"])
async def test_a_file_broken_at_startup_is_503_and_logged(
    keys_file: Path, how: str, node: Any, caplog: pytest.LogCaptureFixture
) -> None:
    broken(keys_file, how)
    with pytest.raises(ConfigurationError):
        Keyring(f"@{keys_file}")
    for kind in RIMS:
        with override_settings(REALTIME_API_KEYS=f"@{keys_file}", REALTIME_API_KEY="test-key"):
            refused(await Rim(kind).post("publish", publish("a")), "configuration")
    assert "Traceback" not in caplog.text


def test_keys_may_be_given_as_json_text() -> None:
    assert knows(Keyring(json.dumps([entry("a")])), "a")


def test_a_key_file_is_checked_at_most_once_a_second(
    keys_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Any] = []
    stat = os.stat

    def counted(path: Any, *args: Any, **options: Any) -> os.stat_result:
        looks.extend([path] if str(path) == str(keys_file) else [])
        return stat(path, *args, **options)

    ring = Keyring(f"@{keys_file}")
    monkeypatch.setattr("realtime.auth.watched_file.os.stat", counted)
    for _ in range(1000):
        knows(ring, "old")
    assert len(looks) <= 1
