"""The service with a Redis set up as in docs/deploy.md: restricted users, and TLS."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from notifier import login_limit
from realtime.brokers.queue_commands import PLACES, QueueCommands
from realtime.brokers.redis_queue import RedisQueue
from realtime.brokers.redis_sync import SyncRedisBroker
from realtime.contrib.admin.dead_letters import move_letters, read_letters
from realtime.contrib.celery import cancel_task, task_states
from realtime.core.fallback_entry import Queued
from realtime.core.publication import Publication
from realtime.errors import BrokerUnavailable, GiveUp
from realtime.wiring import aclose, monitoring
from tests.support import prose
from tests.support.celery_worker import CeleryWorker
from tests.support.client import Client
from tests.support.eventually import eventually, eventually_sync
from tests.support.keys import entry, secret_of
from tests.support.redis_server import DEBIAN, RedisServer
from tests.support.service import DEPLOYED, Service
from tests.support.tls import Authority, TlsProxy
from tests.support.working import Got, working

Attach = Callable[..., Awaitable[Client]]
Serve = Callable[..., Service]
DEPLOY = prose.read(Path(__file__).resolve().parents[2] / "docs/deploy.md")
USERS = {
    name: rules
    for name, rules in re.findall(
        r"^user (\w+) (.*)$", DEPLOY.partition("\n## Sentinel\n")[0], re.M
    )
    if name != "default"  # which is switched off there, and the test's own here
}


CONF = [line for block in re.findall(r"^```\w*\n(.*?)^```$", DEPLOY, re.M | re.S)
        if re.search(r"^maxmemory-policy", block, re.M) for line in block.splitlines()]  # fmt: skip
SERVERS = [
    pytest.param("", id="valkey"),
    pytest.param(DEBIAN or "redis-server", id="redis", marks=pytest.mark.redis),
]


def with_users(program: str = "") -> Iterator[RedisServer]:
    """Start a server with the documented users.

    The default user is only for the test's own checks.
    """
    server = RedisServer(program=program).start()
    with server.client() as admin:
        version = str(admin.info("server")["redis_version"])
        is_old = tuple(map(int, version.split(".")[:2])) < (7, 2)  # Valkey says 7.2
        for user, rules in USERS.items():
            told = [] if is_old else ["+client|setinfo"]
            admin.execute_command("ACL", "SETUSER", user, *rules.split(), *told)
    yield server
    server.stop()


@pytest.fixture
def guarded() -> Iterator[RedisServer]:
    """A Valkey with the documented users."""
    yield from with_users()


@pytest.fixture(params=SERVERS)
def guarded_each(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """Each kind of server that is installed, with the documented users."""
    yield from with_users(request.param)


@pytest.mark.parametrize("program", SERVERS)
def test_a_server_starts_with_the_documented_lines(program: str, tmp_path: Path) -> None:
    """Redis 7.0 did not start: it does not know `client|setinfo`, and comments followed values."""
    assert len(CONF) > 8
    users = [f"user {name} {rules}" for name, rules in USERS.items()]
    conf = tmp_path / "redis.conf"
    conf.write_text("\n".join([*CONF, *users, ""]))
    server = RedisServer(program=program, conf=conf).start()
    try:
        with server.client() as admin:
            assert admin.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            assert admin.config_get("maxmemory") == {"maxmemory": str(512 * 1024**2)}
            assert set(admin.acl_users()) == {*USERS, "default"}
    finally:
        server.stop()


def as_user(server: RedisServer, user: str, password: str = "SECRET") -> str:
    return f"unix://{user}:{password}@{server.socket}"


def denied(server: RedisServer) -> list[Any]:
    """Return the commands that Redis has denied to any user."""
    with server.client() as admin:
        return admin.execute_command("ACL", "LOG")  # type: ignore[no-any-return]


METHODS = ["publish", "broadcast", "batch", "info", "connections", "block_user"]


async def test_the_redis_user_of_a_node_suffices(
    guarded_each: RedisServer, serve: Serve, attach: Attach
) -> None:
    service = await asyncio.to_thread(
        serve,
        as_user(guarded_each, "notifier"),
        DEPLOYED,
        NOTIFIER_API_KEYS=json.dumps([entry("shop", methods=METHODS, rate=1000)]),
    )
    first, second = await attach(service), await attach(service)
    await first.subscribe("chat:lobby")
    assert "publish" in await first.ask(publish={"channel": "chat:lobby", "data": "mine"})
    assert await first.data() == "mine"
    for channel in ("public:a", "public:b"):
        await second.subscribe(channel)
    everything = [
        ("publish", {"channel": "public:a", "data": 1, "idempotency_key": "key"}),
        ("publish", {"channel": "public:a", "data": 1, "idempotency_key": "key"}),
        ("broadcast", {"channels": ["public:a", "public:b"], "data": 2}),
        ("batch", {"commands": [{"publish": {"channel": "public:a", "data": 3}}] * 2}),
        ("info", {}),
        ("connections", {}),
        ("block_user", {"user": "ada", "seconds": 60}),
    ]
    for method, body in everything:
        response = await asyncio.to_thread(post_as_shop, service, method, body)
        assert response.status_code == 200, response.text
    with guarded_each.client() as admin:
        admin.script_flush()
    await asyncio.to_thread(service.publish, "public:b", "after the scripts were lost")
    assert "unsubscribe" in await second.ask(unsubscribe={"channel": "public:a"})
    breaks = service.log.count("live after ")
    await asyncio.to_thread(guarded_each.cut_subscribers)
    # Do not wait for "live": the node may not have noticed the disconnect yet.
    await eventually(lambda: service.log.count("live after ") > breaks)
    await asyncio.to_thread(service.publish, "public:b", "after the break")
    heard = [m["push"]["pub"]["data"] for m in await pushes(second) if "pub" in m["push"]]
    assert heard[-1] == "after the break"
    assert denied(guarded_each) == []


def post_as_shop(service: Service, method: str, body: Any) -> httpx.Response:
    """Publish with a key whose rate is shared by all nodes."""
    headers = {"X-API-Key": secret_of("shop")}
    return httpx.post(f"{service.http}/api/{method}", json=body, headers=headers, timeout=60)


async def pushes(client: Client) -> list[Any]:
    """Return all pushes up to the last publication of the test above."""
    found: list[Any] = []
    while not found or found[-1].get("push", {}).get("pub", {}).get("data") != "after the break":
        found.append(await client.next())
    return [message for message in found if "push" in message]


PUBLISHING = ("notifier", "publisher")


@pytest.mark.parametrize("user", PUBLISHING)
def test_the_redis_user_of_a_publisher_suffices(guarded_each: RedisServer, user: str) -> None:
    broker = SyncRedisBroker(as_user(guarded_each, user))
    once, twice = Publication.of("public:a", 1), Publication.of("b", 1, idempotency_key="key")
    assert broker.publish(once).offset == 1
    assert not broker.publish(twice).repeated
    again, second = broker.publish_many([twice, once])
    assert (getattr(again, "repeated", None), getattr(second, "offset", None)) == (True, 2)
    assert broker.take_from_rate("shop", 1, 1) == 0
    broker.send_node_command(b"{}")
    for until in (4_102_444_800, 0):
        broker.change_block("ada", until, b"{}")
    assert broker.publish(Publication.of("public:a", 1, fallback="log")).queued
    broker.close()
    assert denied(guarded_each) == []


async def test_the_redis_user_of_a_worker_suffices(guarded_each: RedisServer) -> None:
    publisher = SyncRedisBroker(as_user(guarded_each, "publisher"))
    for data in ("good", "bad"):
        publisher.publish(Publication.of("c", data, fallback="f"))
    publisher.close()
    queue = RedisQueue(as_user(guarded_each, "worker"))
    got = Got()

    async def choose(queued: Queued) -> None:
        if queued.data == "bad":
            raise GiveUp("bad")
        if queued.attempt == 1:
            raise ConnectionError("not now")
        await got(queued)

    await queue.renew_leases(["ghost"], 0.001)
    hand = queue.hand("ghost")
    assert await hand.take(1)
    assert await hand.peek()
    await hand.aclose()
    async with working(queue, {"f": choose}):
        await eventually(lambda: got)
    for place in PLACES:
        for raw in [raw async for raw in queue.entries(place)]:
            assert await queue.move(place, raw, raw)
    assert (await queue.durability()).eviction == "noeviction"
    await queue.aclose()
    assert denied(guarded_each) == []


def test_the_redis_user_of_jobs_suffices(
    guarded: RedisServer, settings: Any, tmp_path: Path
) -> None:
    settings.REALTIME_REDIS_URL = as_user(guarded, "notifier")
    from tests.shop import celery

    celery.use_redis_of_settings(600)
    worker = CeleryWorker(tmp_path / "log", TEST_REDIS_URL=as_user(guarded, "jobs"))
    try:
        worker.wait_until_ready()
        good = celery.count.apply_async((3,), ignore_result=True).id
        bad = celery.fail.apply_async(("bad",), ignore_result=True).id
        again = celery.try_again.apply_async(ignore_result=True).id
        endless = celery.endless.apply_async(ignore_result=True).id
        cancel_task(endless)
        words = ["succeeded", "failed", "succeeded", "cancelled"]

        def have_ended() -> bool:
            states = task_states([good, bad, again, endless])
            return [state and state["state"] for state in states] == words

        eventually_sync(have_ended, seconds=20)
    finally:
        worker.kill()
    assert denied(guarded) == []


def test_the_redis_user_of_a_node_suffices_for_login_limits(
    guarded: RedisServer, settings: Any
) -> None:
    settings.REALTIME_REDIS_URL = as_user(guarded, "notifier")
    for _ in range(login_limit.NAME_FROM_ADDRESS):
        assert login_limit.seconds_to_wait("192.0.2.1", "ada") == 0
    assert login_limit.seconds_to_wait("192.0.2.1", "ada") > 0
    login_limit.forget("192.0.2.1", "ada")
    assert login_limit.seconds_to_wait("192.0.2.1", "ada") == 0
    assert denied(guarded) == []


async def test_the_redis_user_of_a_node_suffices_for_the_monitor(
    guarded: RedisServer, settings: Any
) -> None:
    settings.REALTIME_REDIS_URL = as_user(guarded, "notifier")
    said = b'{"epoch":"e","offset":1,"at":1,"channel":"a","fallback":"log","data":1}'
    with guarded.client() as admin:
        admin.rpush(QueueCommands("rt").keys.dead, b"5 " + said, b"unreadable")
    for purging in (False, True):
        [letter, *_] = await asyncio.to_thread(read_letters, 0)
        keys = frozenset([letter.key])
        moved = await asyncio.to_thread(move_letters, keys, 0, purging=purging)
        assert len(moved.done) == 1
    servers = await monitoring.read_servers()
    await aclose()
    assert servers is not None
    assert [(facts.refused, facts.policy) for facts in servers] == [((), "noeviction")]
    assert denied(guarded) == []


FORBIDDEN = [
    "FLUSHALL", "FLUSHDB", "KEYS *", "SCAN 0", "GET other", "SET other 1", "PUBLISH other x",
    "SUBSCRIBE other", "PSUBSCRIBE *", "PSUBSCRIBE rt:*", "CONFIG GET *", "ACL LIST", "MONITOR",
    "CLIENT LIST", "CLIENT KILL TYPE normal", "SHUTDOWN", "SAVE", "SLAVEOF NO ONE",
    "DEL rt:{0}:x", "EVAL return 0", "FUNCTION LIST", "KEYS rt:*",
]  # fmt: skip


@pytest.mark.parametrize("user", USERS)
def test_a_redis_user_may_do_nothing_else(guarded_each: RedisServer, user: str) -> None:
    allowed = {
        "worker": {"CONFIG GET *"},  # it says what Redis does not keep
        "jobs": {
            "DEL rt:{0}:x",
            "PSUBSCRIBE rt:*",
        },  # Celery deletes and receives only its own keys and messages
    }.get(user, set())
    with redis.Redis(
        unix_socket_path=str(guarded_each.socket), username=user, password="SECRET", protocol=2
    ) as client:
        for forbidden in set(FORBIDDEN) - allowed:
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*forbidden.split())


def test_a_publisher_cannot_listen(guarded: RedisServer) -> None:
    with (
        redis.Redis(
            unix_socket_path=str(guarded.socket), username="publisher", password="SECRET"
        ) as client,
        pytest.raises(redis.exceptions.NoPermissionError),
    ):
        client.execute_command("SUBSCRIBE", "rt:{0}:c:public:a")


async def test_a_wrong_password_is_reported_without_showing_it(
    guarded: RedisServer, serve: Serve
) -> None:
    url = as_user(guarded, "notifier", "canary-wrong-password")
    service = await asyncio.to_thread(serve, url, DEPLOYED, live=False)
    await eventually(lambda: "not live: " in service.log)
    assert "invalid username-password pair" in service.log
    assert "canary-wrong-password" not in service.log
    response = await asyncio.to_thread(service.post, "publish", {"channel": "public:a", "data": 1})
    assert response.status_code == 503


# --- TLS ---


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"), "ours")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"), "theirs")


async def test_redis_is_reached_by_tls_with_a_private_ca(
    guarded: RedisServer, serve: Serve, attach: Attach, ours: Authority
) -> None:
    with TlsProxy(guarded, ours.server()) as tls:
        url = f"rediss://notifier:SECRET@127.0.0.1:{tls.port}?ssl_ca_certs={ours.file}"
        service = await asyncio.to_thread(serve, url, DEPLOYED)
        client = await attach(service)
        await client.subscribe("public:a")
        await asyncio.to_thread(service.publish, "public:a", "encrypted")
        assert await client.data() == "encrypted"
        broker = SyncRedisBroker(url.replace("notifier", "publisher"))
        receipt = await asyncio.to_thread(broker.publish, Publication.of("public:a", "sync"))
        assert receipt.nodes == 1
        assert await client.data() == "sync"
        broker.close()


@pytest.mark.parametrize(
    ("server", "said"),
    [
        ("theirs", "unable to get local issuer certificate|self-signed certificate"),
        ("elsewhere", "IP address mismatch"),
        ("ended", "certificate has expired"),
    ],
)
async def test_a_redis_with_an_invalid_certificate_gets_no_password(
    guarded: RedisServer, serve: Serve, ours: Authority, theirs: Authority, server: str, said: str
) -> None:
    context = {
        "theirs": theirs.server,
        "elsewhere": lambda: ours.server(address="127.0.0.2"),
        "ended": lambda: ours.server(ended=True),
    }[server]()
    with TlsProxy(guarded, context) as tls:
        url = f"rediss://notifier:SECRET@127.0.0.1:{tls.port}?ssl_ca_certs={ours.file}"
        service = await asyncio.to_thread(serve, url, DEPLOYED, live=False)
        await eventually(lambda: "not live: " in service.log)
        [line] = [line for line in service.log.splitlines() if "not live: " in line]
        assert re.search(said, line)
        assert "SECRET" not in service.log
        broker = SyncRedisBroker(url)
        with pytest.raises(BrokerUnavailable, match=said):
            await asyncio.to_thread(broker.publish, Publication.of("public:a", 1))
        broker.close()
    with guarded.client() as admin:
        assert len(admin.client_list()) == 1, "no other connection has reached Valkey"
