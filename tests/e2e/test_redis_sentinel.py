"""The service, and everything around it that needs Redis, behind sentinels as in docs/deploy.md."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command

from notifier import login_limit
from realtime.checks.replicas import check_replicas
from realtime.contrib.celery import cancel_task, task_states
from tests.shop import celery
from tests.support import prose
from tests.support.celery_worker import CeleryWorker
from tests.support.client import Client
from tests.support.command import Command
from tests.support.eventually import eventually, eventually_sync
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer
from tests.support.sentinels import NAME, Sentinel, SentinelSet, sentinel_set, watch
from tests.support.service import DEPLOYED, Service
from tests.support.tls import Authority, TlsProxy

Attach = Callable[..., Awaitable[Client]]
Serve = Callable[..., Service]
ROOT = Path(__file__).resolve().parents[2]
DEPLOY = prose.read(ROOT / "docs/deploy.md")
SECTION = DEPLOY.partition("\n## Sentinel\n")[2].partition("\n## ")[0]
URL, OF_REDIS, OF_SENTINELS = re.findall(r"^```\n(.*?)^```$", SECTION, re.M | re.S)
USERS = [
    line
    for line in re.findall(r"^user .*$", DEPLOY.partition("\n## Sentinel\n")[0], re.M)
    if "default" not in line
]
"""Without the line that switches off the default user, who is the test's own at Redis."""


@pytest.fixture
def documented(tmp_path: Path) -> Iterator[SentinelSet]:
    """A master, two replicas and three sentinels, configured as documented."""
    ports = [free_port() for _ in range(3)]
    servers = []
    for port in ports:
        conf = tmp_path / f"redis-{port}.conf"
        follow = [] if port == ports[0] else [f"replicaof 127.0.0.1 {ports[0]}"]
        conf.write_text("\n".join([OF_REDIS, *USERS, "repl-diskless-sync-delay 0", *follow, ""]))
        servers.append(RedisServer(port=port, conf=conf))
    lines = OF_SENTINELS.replace("10.0.0.1 6379", f"127.0.0.1 {ports[0]}").replace("port 26379", "")
    sentinels = [Sentinel(lines, username="sentinel", password="SECRET") for _ in range(3)]
    with SentinelSet(servers, sentinels) as made:
        yield made


def documented_url(found: SentinelSet) -> str:
    hosts = "sentinel1:26379,sentinel2:26379,sentinel3:26379"
    assert hosts in URL
    return URL.strip().removeprefix("REDIS_URL=").replace(hosts, found.addresses)


def test_jobs_run_with_the_documented_users(
    documented: SentinelSet, settings: Any, tmp_path: Path
) -> None:
    settings.REALTIME_REDIS_URL = documented_url(documented)
    run_jobs(settings.REALTIME_REDIS_URL.replace("notifier:", "jobs:", 1), tmp_path / "log")
    assert denied(documented) == []


async def test_the_documented_configuration_works_and_fails_over(
    documented: SentinelSet, serve: Serve, attach: Attach, settings: Any
) -> None:
    url = documented_url(documented)
    service = await asyncio.to_thread(serve, url, DEPLOYED)
    client = await attach(service)
    await client.subscribe("public:a")
    assert service.publish("public:a", "before")["nodes"] == 1
    assert await client.data() == "before"
    settings.REALTIME_REDIS_URL = url
    assert check_replicas() == []
    documented.sentinels[0].ask("SENTINEL", "FAILOVER", NAME)
    await eventually(lambda: documented.have_left(documented.servers[0]), seconds=20)
    await eventually(lambda: service.log.count("live after ") == 2)
    assert service.publish("public:a", "after")["nodes"] == 1
    await eventually(lambda: asyncio.to_thread(documented.is_ready), seconds=40)
    assert denied(documented) == []


def denied(found: SentinelSet) -> list[Any]:
    """Return the commands that a Redis has denied to any user, except for the optional one."""
    entries: list[Any] = []
    for each in found.servers:
        with each.client() as admin:
            entries += admin.execute_command("ACL", "LOG")
    return [entry for entry in entries if b"client|setinfo" not in entry]


@pytest.fixture(scope="module")
def guarded() -> Iterator[SentinelSet]:
    """A master with a sentinel; whatever needs more is tested elsewhere."""
    with sentinel_set(sentinels=1, replicas=0) as made:
        yield made


@pytest.fixture
def guarded_url(guarded: SentinelSet, wired: str, settings: Any) -> str:
    """The app's settings lead to that master."""
    settings.REALTIME_REDIS_URL = guarded.url
    return guarded.url


@pytest.mark.usefixtures("guarded_url")
def test_login_attempts_are_counted() -> None:
    for _ in range(login_limit.NAME_FROM_ADDRESS):
        assert login_limit.seconds_to_wait("192.0.2.1", "ada") == 0
    assert login_limit.seconds_to_wait("192.0.2.1", "ada") > 0
    login_limit.forget("192.0.2.1", "ada")
    assert login_limit.seconds_to_wait("192.0.2.1", "ada") == 0


def test_commands_work(guarded_url: str, wired: str, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    ledger.touch()
    out = StringIO()
    call_command("publish", "c", json.dumps({"n": 1}), fallback="ledger", stdout=out)
    assert "queued" in out.getvalue()
    out = StringIO()
    call_command("fallback", "stats", stdout=out)
    assert re.search(r"waiting\W+1\b", out.getvalue()), out.getvalue()
    env = {"TEST_REDIS_URL": guarded_url, "TEST_REDIS_PREFIX": wired, "TEST_LEDGER": str(ledger)}
    worker = Command("runfallback", **env)
    try:
        eventually_sync(lambda: ledger.read_text(), seconds=20)
    finally:
        worker.stop()


LAYER = """
import asyncio, sys
from django.conf import settings
from notifier.channel_layers import channel_layers
settings.configure(CHANNEL_LAYERS=channel_layers(sys.argv[1]))
from channels.layers import get_channel_layer

async def main():
    layer = get_channel_layer()
    channel = await layer.new_channel()
    await layer.group_add("g", channel)
    await layer.group_send("g", {"type": "x"})
    print(await layer.receive(channel))

asyncio.run(main())
"""


def send_over_the_channel_layer(url: str) -> None:
    """Do it in a process of its own: redis-py leaves the connections to sentinels open."""
    done = subprocess.run(
        [sys.executable, "-c", LAYER, url], capture_output=True, timeout=60, check=True, cwd=ROOT
    )
    assert done.stdout == b"{'type': 'x'}\n"


def test_the_channel_layer_works(guarded: SentinelSet) -> None:
    send_over_the_channel_layer(guarded.url)


@contextmanager
def working(url: str, log: Path) -> Iterator[None]:
    """Run a worker at this URL, for tasks that are started over the Redis of the settings."""
    celery.use_redis_of_settings(600)
    worker = CeleryWorker(log, TEST_REDIS_URL=url)
    try:
        worker.wait_until_ready()
        yield
    finally:
        worker.kill()


def run_jobs(url: str, log: Path) -> None:
    """Start tasks, and wait until each has ended as it should."""
    with working(url, log):
        good = celery.count.apply_async((3,), ignore_result=True).id
        endless = celery.endless.apply_async(ignore_result=True).id
        cancel_task(endless)
        wait_for({good: "succeeded", endless: "cancelled"})


def wait_for(states: dict[str, str]) -> None:
    """Wait until each task is in its state."""

    def found() -> list[Any]:
        return [state and state["state"] for state in task_states(list(states))]

    eventually_sync(lambda: found() == list(states.values()), seconds=20)


def test_jobs_go_on_after_a_failover(settings: Any, tmp_path: Path) -> None:
    with sentinel_set() as found:
        settings.REALTIME_REDIS_URL = found.url
        with working(found.url, tmp_path / "log"):
            before = celery.count.apply_async((3,), ignore_result=True).id
            wait_for({before: "succeeded"})
            found.sentinels[0].ask("SENTINEL", "FAILOVER", NAME)
            # The former master is told to follow, which cuts its connections.
            eventually_sync(lambda: found.have_left(found.servers[0]), seconds=20)
            eventually_sync(found.is_ready, seconds=40)
            after = celery.count.apply_async((3,), ignore_result=True).id
            wait_for({after: "succeeded"})


def test_jobs_run(tmp_path: Path, settings: Any) -> None:
    lines = ('requirepass "of sentinels"', f"sentinel auth-pass {NAME} SECRET")
    with sentinel_set(*lines, sentinels=2, replicas=0, password="of sentinels") as found:
        with found.master.client() as client:
            client.config_set("requirepass", "SECRET")
        query = "sentinel_password=of%20sentinels"
        settings.REALTIME_REDIS_URL = f"redis+sentinel://:SECRET@{found.addresses}/{NAME}/1?{query}"
        run_jobs(settings.REALTIME_REDIS_URL, tmp_path / "log")


def test_jobs_and_the_channel_layer_take_the_options_for_tls(tmp_path: Path, settings: Any) -> None:
    ours = Authority(tmp_path, "ours")
    with ExitStack() as stack:
        redis = RedisServer(port=free_port()).start()
        stack.callback(redis.stop)
        tls = stack.enter_context(TlsProxy(redis, ours.server()))
        # It speaks no TLS itself and must not notice: redis-py believes no sentinel that misses it.
        patient = f"sentinel down-after-milliseconds {NAME} 600000"
        sentinel = Sentinel(*watch(tls.port), patient).start()
        stack.callback(sentinel.stop)
        eventually_sync(sentinel.is_up)
        front = stack.enter_context(TlsProxy(sentinel, ours.server()))
        settings.REALTIME_REDIS_URL = (
            f"rediss+sentinel://127.0.0.1:{front.port}/{NAME}?ssl_ca_certs={ours.file}"
        )
        send_over_the_channel_layer(settings.REALTIME_REDIS_URL)
        try:
            run_jobs(settings.REALTIME_REDIS_URL, tmp_path / "log")
        finally:
            without = dict.fromkeys(("broker_use_ssl", "redis_backend_use_ssl"))
            celery.app.conf.update(without)
