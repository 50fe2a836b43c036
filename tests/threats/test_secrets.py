"""Canary secrets must appear only where secrets belong."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import httpx
import jwt
import pytest
import websockets

from tests.support.client import Client
from tests.support.eventually import eventually
from tests.support.raw import asked, request
from tests.support.redis_server import RedisServer
from tests.support.service import DEPLOYED, ROOT, Service

Attach = Callable[..., Awaitable[Client]]
SECRETS = {
    "SECRET_KEY": "c4n4ry-of-django-" + "d" * 50,
    "NOTIFIER_API_KEY": "c4n4ry-of-publishers",
    "NOTIFIER_TOKEN_SECRET": "c4n4ry-of-tokens-which-is-long-enough-for-sha-256",
}
OTHER_KEY = "c4n4ry-of-a-shop"
PASSWORD = "c4n4ry-of-redis"
CANARY = "c4n4ry"


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    server = RedisServer()
    server.start()
    with server.client() as client:
        client.config_set("requirepass", PASSWORD)
    yield server
    server.stop()


async def test_a_secret_is_read_from_the_log_or_a_response(
    redis: RedisServer, serve: Callable[..., Service], attach: Attach
) -> None:
    """All secrets are used, correctly and incorrectly, also while Redis is unreachable."""
    digest = hashlib.sha256(OTHER_KEY.encode()).hexdigest()
    keys = json.dumps([{"name": "shop", "sha256": digest, "channels": ["public:*"], "rate": 1}])
    url = f"unix://:{PASSWORD}@{redis.socket}"
    env = {**SECRETS, "NOTIFIER_API_KEYS": keys, "HTTPS": "0"}
    service = await asyncio.to_thread(lambda: serve(url, DEPLOYED, **env))
    answers = [*await _use_them(service, attach)]
    redis.kill()
    await eventually(lambda: not service.is_live())
    answers += await _use_them(service, attach)
    assert "not live" in service.log
    written = "\n".join([service.log, *answers])
    for secret in (*SECRETS.values(), OTHER_KEY, PASSWORD):
        for form in (secret, base64.b64encode(secret.encode()).decode().rstrip("="), secret[8:]):
            assert form not in written
    assert CANARY not in written
    assert CANARY not in await asyncio.to_thread(command_lines, service)


def command_lines(service: Service) -> str:
    """Return what every user of the machine can read about our processes, on systems with /proc."""
    if not Path("/proc/self/cmdline").exists():
        return ""
    pids = (service.pid, service.worker_pid)
    return " ".join(Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8") for pid in pids)


async def _use_them(service: Service, attach: Attach) -> list[str]:
    """Use every secret; return all responses."""
    said: list[str] = []
    token = jwt.encode(
        {"sub": "1", "exp": time.time() + 60}, SECRETS["NOTIFIER_TOKEN_SECRET"], "HS256"
    )
    async with httpx.AsyncClient(base_url=service.http, timeout=60) as http:
        for key in (SECRETS["NOTIFIER_API_KEY"], OTHER_KEY, OTHER_KEY, OTHER_KEY + "x"):
            for channel in ("public:news", "closed", "a\r\nb"):
                given = {"X-API-Key": key, "Authorization": f"Bearer {token}"}
                answer = await http.post(
                    "/api/publish", json={"channel": channel, "data": 1}, headers=given
                )
                said += [answer.text, str(answer.headers)]
        for path in ("/", "/readyz", "/nowhere", "/login/", f"/?token={CANARY}", "/api/publish"):
            answer = await http.get(path, headers={"X-API-Key": OTHER_KEY, "Cookie": CANARY})
            said += [answer.text, str(answer.headers)]
    for attempt in (
        request("POST", f"/api/publish?key={CANARY}", f"X-API-Key: {OTHER_KEY}", body=b"{"),
        request("GET", f"/x?{CANARY}", f"Authorization: Basic {CANARY}", "X: \x00"),
    ):
        said.append((await asyncio.to_thread(asked, service.port, attempt, seconds=10)).decode())
    for shown in (token, token[:-3] + CANARY, f"{CANARY}.{CANARY}.{CANARY}", CANARY * 2000):
        client = await attach(service, connect=False)
        await client.tell(connect={"token": shown})
        try:
            said.append(json.dumps(await client.next()))
        except websockets.ConnectionClosed as closed:
            said.append(str(closed.rcvd))
    return said


PRIVATE = ("BEGIN " + "PRIVATE KEY", "BEGIN RSA " + "PRIVATE KEY", "BEGIN EC " + "PRIVATE KEY")


def test_a_secret_is_in_the_repository() -> None:
    """Nothing that is shipped contains a private key or a file of secrets."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is no clone")
    files = [ROOT / name for name in listed.stdout.splitlines()]
    assert not [path for path in files if path.suffix in {".pem", ".key", ".env", ".sqlite3"}]
    found = [
        path.name
        for path in files
        if path.is_file() and any(sign.encode() in path.read_bytes() for sign in PRIVATE)
    ]
    assert not found
