"""API keys in a deployment: several workers, one file, no restart."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from tests.support.eventually import eventually_sync
from tests.support.keys import entry, secret_of
from tests.support.redis_server import RedisServer
from tests.support.service import DEPLOYED, Service


def write(path: Path, *entries: Any) -> None:
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(entries))
    draft.replace(path)


def statuses(service: Service, name: str, requests: int = 12) -> set[int]:
    """Publish on separate connections, so that each worker handles some."""
    return {
        httpx.post(
            f"{service.http}/api/publish",
            json={"channel": "public:news", "data": 1},
            headers={"X-API-Key": secret_of(name)},
        ).status_code
        for _ in range(requests)
    }


def test_a_key_is_changed_without_a_restart_on_all_workers(
    own_redis: RedisServer, serve: Callable[..., Service], tmp_path: Path
) -> None:
    """Key rotation as described in docs/deploy.md."""
    path = tmp_path / "keys.json"
    write(path, entry("shop", channels=["public:*"]))
    service = serve(
        own_redis.url,
        DEPLOYED,
        NOTIFIER_API_KEY="",
        NOTIFIER_API_KEYS=f"@{path}",
        WEB_CONCURRENCY="2",
    )
    assert statuses(service, "shop") == {200}
    assert statuses(service, "shop-2", 1) == {401}
    write(path, entry("shop"), entry("shop-2"))
    eventually_sync(lambda: statuses(service, "shop-2") == {200})
    assert statuses(service, "shop") == {200}
    write(path, entry("shop-2"))
    removed = time.monotonic()
    last_good = removed
    while time.monotonic() < removed + 3:
        if 200 in statuses(service, "shop", 4):
            last_good = time.monotonic()
    assert last_good - removed < 2
    assert statuses(service, "shop-2") == {200}
    path.unlink()
    eventually_sync(
        lambda: statuses(service, "shop-2") == {200} and "could not reload" in service.log
    )
    assert secret_of("shop") not in service.log
    assert entry("shop")["sha256"] not in service.log
    assert "Traceback" not in service.log
    assert "API key shop: 1 requests so far" in service.log


def test_a_rate_is_shared_by_all_workers(
    own_redis: RedisServer, serve: Callable[..., Service]
) -> None:
    keys = json.dumps([entry("slow", rate=0.01)])
    service = serve(own_redis.url, DEPLOYED, NOTIFIER_API_KEYS=keys, WEB_CONCURRENCY="2")
    answers = [
        httpx.post(
            f"{service.http}/api/publish",
            json={"channel": "public:news", "data": 1},
            headers={"X-API-Key": secret_of("slow")},
        )
        for _ in range(10)
    ]
    assert [answer.status_code for answer in answers] == [200] + [429] * 9
    assert all(90 <= int(answer.headers["Retry-After"]) <= 100 for answer in answers[1:])
