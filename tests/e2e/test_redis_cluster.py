"""The service, and all around it that needs Redis, on a Redis Cluster as in docs/deploy.md."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command

from realtime.contrib.celery import task_states
from realtime.core.partitions import partition_of
from tests.shop import celery
from tests.support import prose
from tests.support.celery_worker import CeleryWorker
from tests.support.client import Client
from tests.support.command import Command
from tests.support.eventually import eventually, eventually_sync
from tests.support.ports import free_port
from tests.support.redis_cluster import ClusterSet, cluster_set
from tests.support.redis_server import RedisServer
from tests.support.service import DEPLOYED, Service

Attach = Callable[..., Awaitable[Client]]
Serve = Callable[..., Service]
ROOT = Path(__file__).resolve().parents[2]
DEPLOY = prose.read(ROOT / "docs/deploy.md")
SECTION = DEPLOY.partition("\n## Cluster\n")[2].partition("\n## ")[0]
URL, OF_REDIS, OF_USERS = re.findall(r"^```\n(.*?)^```$", SECTION, re.M | re.S)
BEFORE = DEPLOY.partition("\n## Sentinel\n")[0]


def users() -> list[str]:
    """Return the lines of the users, with what the section adds to each."""
    added = dict(line.split(" ", 1) for line in OF_USERS.splitlines())
    lines = [line for line in re.findall(r"^user .*$", BEFORE, re.M) if "default" not in line]
    return [f"{line} {added.get(line.split()[1], '')}" for line in lines]


@pytest.fixture(scope="module")
def documented(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterSet]:
    """Three masters and three replicas, configured as documented."""
    conf = tmp_path_factory.mktemp("cluster") / "redis.conf"
    conf.write_text("\n".join([OF_REDIS, *users(), ""]))
    with cluster_set(3, 3, conf=conf) as made:
        yield made


def url_of(found: ClusterSet, user: str) -> str:
    hosts = "redis1:6379,redis2:6379,redis3:6379"
    assert hosts in URL
    addresses = ",".join(each.address for each in found.servers[:3])
    return (
        URL.strip()
        .removeprefix("REDIS_URL=")
        .replace(hosts, addresses)
        .replace("notifier:", f"{user}:")
    )


def denied(found: ClusterSet) -> list[Any]:
    """Return the commands that a server has denied to any user, except for the optional one."""
    entries = [entry for each in found.servers for entry in each.ask("ACL", "LOG")]
    return [entry for entry in entries if b"client|setinfo" not in entry]


async def test_the_documented_configuration_works_and_hands_over(
    documented: ClusterSet, serve: Serve, attach: Attach
) -> None:
    service = await asyncio.to_thread(serve, url_of(documented, "notifier"), DEPLOYED)
    client = await attach(service)
    channels = [f"public:{number}" for number in range(20)]
    for name in channels:
        await client.subscribe(name)
    for name in channels:
        assert service.publish(name, name)["nodes"] == 1
    assert {await client.data() for _ in channels} == set(channels)
    master = documented.owner_of(partition_of(channels[0]).slot)
    assert master is not None
    await asyncio.to_thread(documented.failover, documented.replica_of(master))
    epoch = service.publish(channels[0], "after")["epoch"]
    # A channel is not live for a moment if handing over takes longer than 0.2 s.
    gap = await client.push("gap", passing_over=("pub", "state"))
    assert gap["to"] is None
    assert epoch != gap["epoch"]
    assert denied(documented) == []


def test_the_documented_users_can_do_their_work(
    documented: ClusterSet, settings: Any, tmp_path: Path
) -> None:
    settings.REALTIME_REDIS_PREFIX = "rt"
    ledger = tmp_path / "ledger"
    ledger.touch()
    settings.REALTIME_REDIS_URL = url_of(documented, "publisher")
    for number in range(10):
        out = StringIO()
        data = json.dumps({"n": number})
        call_command("publish", f"c{number}", data, fallback="ledger", stdout=out)
        assert "queued" in out.getvalue()
    settings.REALTIME_REDIS_URL = url_of(documented, "worker")
    out = StringIO()
    call_command("fallback", "stats", stdout=out)
    assert re.search(r"waiting\W+10\b", out.getvalue()), out.getvalue()
    out = StringIO()
    call_command("fallback", "list", where="waiting", stdout=out)
    assert len(out.getvalue().splitlines()) >= 10
    env = {
        "TEST_REDIS_URL": settings.REALTIME_REDIS_URL,
        "TEST_REDIS_PREFIX": "rt",
        "TEST_LEDGER": str(ledger),
    }
    worker = Command("runfallback", **env)
    try:
        eventually_sync(lambda: len(ledger.read_text().splitlines()) == 10, seconds=20)
    finally:
        worker.stop()
    assert denied(documented) == []


async def test_without_a_redis_of_their_own_jobs_are_off(
    documented: ClusterSet, serve: Serve
) -> None:
    service = await asyncio.to_thread(serve, url_of(documented, "notifier"), DEPLOYED)
    by_tls = {"X-Forwarded-Proto": "https"}
    async with httpx.AsyncClient(base_url=service.http, headers=by_tls) as browser:
        page = await browser.get("/jobs/")
        assert page.status_code == 404
        assert "JOBS_REDIS_URL" in page.text
        for path in ("/", "/chat/", "/readyz"):
            assert (await browser.get(path)).status_code < 400, path


def test_jobs_run_with_a_redis_of_their_own(
    documented: ClusterSet, redis_server: RedisServer, settings: Any, tmp_path: Path
) -> None:
    """Celery's messages are there, and the states of tasks in the cluster."""
    settings.REALTIME_REDIS_PREFIX = "rt"
    settings.REALTIME_REDIS_URL = url_of(documented, "notifier")
    with pytest.raises(ImproperlyConfigured, match="REALTIME_JOBS_REDIS_URL"):
        celery.use_redis_of_settings(600)
    settings.REALTIME_JOBS_REDIS_URL = redis_server.url
    celery.use_redis_of_settings(600)
    worker = CeleryWorker(
        tmp_path / "log",
        TEST_REDIS_URL=settings.REALTIME_REDIS_URL,
        TEST_JOBS_REDIS_URL=redis_server.url,
    )
    try:
        worker.wait_until_ready()
        task = celery.count.apply_async((3,), ignore_result=True).id

        def has_succeeded() -> bool:
            [state] = task_states([task])
            return state is not None and state["state"] == "succeeded"

        eventually_sync(has_succeeded, seconds=20)
    finally:
        worker.kill()
    assert denied(documented) == []


@pytest.fixture
def broken() -> Iterator[ClusterSet]:
    """Three masters without replicas, of which the first is gone."""
    with cluster_set(3, 0, requires_full_coverage=False) as made:
        made.servers[0].kill()
        yield made


async def test_a_node_starts_while_a_part_of_the_cluster_is_away(
    broken: ClusterSet, serve: Serve, attach: Attach
) -> None:
    """It is live, tells who asks for a channel of that part, and becomes whole by itself."""
    lost = await asyncio.to_thread(_name_at, broken, None)
    served = await asyncio.to_thread(_name_at, broken, broken.servers[1])
    service = await asyncio.to_thread(serve, broken.url, DEPLOYED)
    client = await attach(service)
    await client.subscribe(served)
    assert service.publish(served, "here")["nodes"] == 1
    assert await client.data() == "here"
    sent = {"channels": [served, lost], "data": "to both"}
    one, other = service.post("broadcast", sent).json()["result"]["responses"]
    assert one["result"]["nodes"] == 1
    assert other["error"]["reason"] == "broker_unavailable"
    assert await client.data() == "to both"
    await client.tell(subscribe={"channel": lost})
    state = {"channel": lost, "state": {"live": False, "reason": "broker"}}
    assert (await client.next())["push"] == state
    refusal = (await client.next())["error"]
    assert (refusal["code"], refusal["temporary"]) == (100, True)

    await asyncio.to_thread(broken.servers[0].start)
    await asyncio.to_thread(broken.wait_until_ready)

    async def has_subscribed() -> bool:
        return "subscribe" in await client.ask(subscribe={"channel": lost})

    await eventually(has_subscribed, seconds=10)
    assert service.publish(lost, "there")["nodes"] == 1
    pub = await client.push("pub", passing_over="state")
    assert pub["data"] == "there"


def _name_at(found: ClusterSet, server: object) -> str:
    return next(
        name
        for name in (f"public:{number}" for number in range(1000))
        if found.owner_of(partition_of(name).slot) is server
    )


REDIS_CLI = shutil.which("redis-cli")


@pytest.mark.redis
@pytest.mark.skipif(REDIS_CLI is None, reason="there is no redis-cli on this machine")
@pytest.mark.parametrize("title", ["Sentinel", "Cluster"])
async def test_the_commands_for_one_machine_work_as_written(
    title: str, serve: Serve, attach: Attach, tmp_path: Path
) -> None:
    section = DEPLOY.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    [commands] = re.findall(r"^```sh\n(.*?)^```$", section, re.M | re.S)
    [url] = re.findall(r"`REDIS_URL=(\S+) make run`", section)
    [killing] = re.findall(r"`(redis-cli -p \d+ shutdown nosave)`", section)
    ports = sorted(set(re.findall(r"\b(?:639|2639|700)\d\b", commands + url + killing)))
    new = {port: str(_port_with_a_bus()) for port in ports}
    texts = [
        re.sub("|".join(ports), lambda found: new[found[0]], each)
        for each in (commands, url, killing)
    ]
    commands, url, killing = texts
    try:
        done = await asyncio.to_thread(_shell, commands, tmp_path)
        assert done.returncode == 0, done.stdout
        service = await asyncio.to_thread(serve, url, DEPLOYED)
        client = await attach(service)
        await client.subscribe("public:0")
        assert service.publish("public:0", "before")["nodes"] == 1
        assert await client.data() == "before"
        done = await asyncio.to_thread(_shell, killing, tmp_path)
        assert done.returncode == 0, done.stdout
        for number in range(20):  # some of them were at that master

            async def is_published(name: str = f"public:{number}") -> bool:
                response = await asyncio.to_thread(
                    service.post, "publish", {"channel": name, "data": 1}
                )
                return response.status_code == 200

            # If no sentinel gets enough votes, they vote again after twice the failover-timeout.
            await eventually(is_published, seconds=90)
    finally:
        for port in new.values():
            await asyncio.to_thread(_shell, f"redis-cli -p {port} shutdown nosave", tmp_path)


def _port_with_a_bus() -> int:
    """A node of a cluster also listens at its port + 10,000."""
    while (port := free_port()) > 22_700:
        pass
    return port


def _shell(commands: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-ec", commands],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
