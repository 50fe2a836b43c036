"""An upgrade and a rollback: two versions of the service beside each other on one Redis."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.settings import REALTIME_TOKEN_SECRET
from tests.support.client import Client
from tests.support.database import migrated_url
from tests.support.eventually import eventually_sync
from tests.support.redis_server import RedisServer
from tests.support.service import DEPLOYED, DEPLOYMENT, ROOT, Service
from tests.support.tokens import token

OLDEST = "aa1e861"
"""The oldest commit that reads what today's version writes to Redis. There is no release yet: then,
this is the tag of the release before. A change that a running older version does not understand
moves it, and says so in CHANGELOG.md."""


@pytest.fixture(scope="module")
def old_checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    archive = subprocess.run(["git", "archive", OLDEST], cwd=ROOT, capture_output=True)
    if archive.returncode:
        pytest.skip("this checkout has no history")
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(folder, filter="data")
    return folder


@contextmanager
def running(folder: Path, *command: str, log: Path, **env: str) -> Iterator[None]:
    """Run a program of a checkout for a while."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=folder, env={**os.environ, **DEPLOYMENT, **env}, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=60)


@pytest.fixture(scope="module")
def nodes(
    redis: RedisServer, old_checkout: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Service]]:
    """A node of each version."""
    tokens = {"NOTIFIER_TOKEN_SECRET": REALTIME_TOKEN_SECRET}
    new = Service(redis.url, DEPLOYED, HTTPS="0", **tokens).start()
    old = Service(redis.url, DEPLOYED, HTTPS="0")  # only for its addresses and its methods
    log = tmp_path_factory.mktemp("log") / "old"
    env = {
        "REDIS_URL": redis.url,
        "PORT": str(old.port),
        "HTTPS": "0",
        "DATABASE_URL": migrated_url(),
        **tokens,
    }
    try:
        with running(old_checkout, "-m", "notifier", "serve", log=log, **env):
            try:
                eventually_sync(old.is_live, seconds=30)
            except AssertionError:
                raise AssertionError(log.read_text(errors="replace")) from None
            yield {"old": old, "new": new}
    finally:
        new.stop()


async def test_nodes_of_two_versions_deliver_to_each_other(nodes: dict[str, Service]) -> None:
    """In the same order, without a gap, whichever of them has taken a publication."""
    clients = {name: await Client.open(node.ws) for name, node in nodes.items()}
    try:
        for client in clients.values():
            await client.subscribe("public:mixed")
        sent = []
        for number in range(10):
            name = ("old", "new")[number % 2]
            result = nodes[name].publish("public:mixed", [name, number], event="mixed")
            assert result["nodes"] == 2
            sent.append((result["offset"], [name, number]))
        for client in clients.values():
            received = []
            while len(received) < len(sent):
                push: dict[str, Any] = (await client.next()).get("push", {})
                assert "gap" not in push
                if "pub" in push:
                    received.append((push["pub"]["offset"], push["pub"]["data"]))
            assert received == sent
    finally:
        for client in clients.values():
            await client.close()


@pytest.mark.parametrize(("here", "there"), [("old", "new"), ("new", "old")])
async def test_a_command_of_one_version_reaches_the_clients_of_the_other(
    nodes: dict[str, Service], here: str, there: str
) -> None:
    client = await Client.open(nodes[there].ws, connect=False)
    await client.ask(connect={"token": token("42")})
    answer = nodes[here].post("disconnect", {"user": "42"})
    assert answer.status_code == 200, answer.text
    await client.closed(30)


@pytest.mark.parametrize(("queued", "handled"), [("old", "new"), ("new", "old")])
def test_the_fallback_worker_of_one_version_handles_what_the_other_has_queued(
    nodes: dict[str, Service], old_checkout: Path, redis: RedisServer, tmp_path: Path,
    queued: str, handled: str,
) -> None:  # fmt: skip
    result = nodes[queued].publish("public:nobody", {"from": queued}, fallback="log")
    assert result["queued"] is True
    log = tmp_path / "log"
    folder = {"old": old_checkout, "new": ROOT}[handled]
    env = {"REDIS_URL": redis.url, "DATABASE_URL": migrated_url()}
    with running(folder, "manage.py", "runfallback", log=log, **env):
        eventually_sync(lambda: "fallback log: publication" in log.read_text(), seconds=30)
