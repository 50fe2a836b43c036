"""The queue for fallbacks: who may add entries, how many, and what they do to a worker."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest

from tests.support.database import migrated_url
from tests.support.keys import entry, secret_of
from tests.support.redis_server import RedisServer
from tests.threats.conftest import Target

ITEMS = 3
KEYS = [entry("shop", fallbacks=["log"]), entry("plain", fallbacks=[])]


@pytest.fixture(scope="module")
def guarded(redis_server: RedisServer) -> Iterator[Target]:
    server = RedisServer().start()
    target = Target(
        server,
        DATABASE_URL=migrated_url(),
        NOTIFIER_API_KEYS=json.dumps(KEYS),
        NOTIFIER_LIMITS=json.dumps({"fallback_items": ITEMS}),
        NOTIFIER_NAMESPACES=json.dumps({"kept": {"fallback": "email"}}),
    )
    target.start()
    yield target
    target.looks_well()
    target.stop()
    server.stop()


def test_a_stranger_fills_a_fallback_queue(guarded: Target) -> None:
    names = ("mail", "rt:{0}:pos:public:news", "", 1, ["log"], {"queue": "log"}, "log\r\n")
    for fallback in names:
        answer = guarded.post("publish", {"channel": "dark", "data": 1, "fallback": fallback})
        assert (answer.status_code, answer.json()["error"]["reason"]) == (400, "invalid_fallback")
    answer = httpx.post(
        f"{guarded.http}/api/publish", json={"channel": "dark", "data": 1, "fallback": "log"}
    )
    assert answer.status_code == 401
    queued = [
        guarded.post("publish", {"channel": "dark", "data": n, "fallback": "log"}).status_code
        for n in range(ITEMS + 2)
    ]
    assert queued == [200] * ITEMS + [503] * 2
    answer = guarded.post("publish", {"channel": "dark", "data": 1, "fallback": "log"})
    assert answer.json()["error"]["reason"] == "queue_full"
    assert guarded.post("publish", {"channel": "dark", "data": 1}).status_code == 200
    stats = guarded.post("info", {}).json()["result"]["fallback"]
    assert (stats["waiting"], stats["hands"]) == (ITEMS, 0)
    with guarded.redis.client() as client:
        client.delete("rt:{0}:fallback:waiting")


@pytest.mark.parametrize(
    ("key", "fields", "status"),
    [
        ("shop", {"fallback": "log"}, 200),
        ("shop", {"fallback": "email"}, 403),
        ("shop", {"fallback": "nothing of this name"}, 400),
        ("shop", {"fallback": "nothing"}, 403),
        ("shop", {"channel": "kept:a", "fallback_options": {"to": "eve@example.com"}}, 403),
        ("plain", {"fallback": "log"}, 403),
        ("plain", {"channel": "kept:a"}, 200),
        ("plain", {"channel": "kept:a", "fallback_when": "always"}, 403),
    ],
)
def test_a_key_sends_mail_without_permission(
    guarded: Target, key: str, fields: dict[str, str], status: int
) -> None:
    answer = httpx.post(
        f"{guarded.http}/api/publish",
        json={"channel": "dark", "data": 1, **fields},
        headers={"X-API-Key": secret_of(key)},
    )
    assert answer.status_code == status, answer.text
    with guarded.redis.client() as client:
        entries = client.lrange("rt:{0}:fallback:waiting", 0, -1)
        client.delete("rt:{0}:fallback:waiting")
    assert len(entries) == (status == 200)
