"""The views of the console under the service's launcher, without a browser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.test_jobs_access import USERS, Browser
from tests.support.database import migrate
from tests.support.redis_server import RedisServer
from tests.support.service import DEPLOYED, Service


@pytest.fixture
def service(own_redis: RedisServer, serve: Callable[..., Service], tmp_path: Path) -> Service:
    url = migrate(f"sqlite:///{tmp_path}/db.sqlite3", then=USERS)
    return serve(own_redis.url, DEPLOYED, DATABASE_URL=url, HTTPS="0")


def test_a_user_stays_connected_without_redis(service: Service, own_redis: RedisServer) -> None:
    eve = Browser(service, "eve")
    page = eve.http.get("/console/")
    assert page.status_code == 200
    assert "no-store" in page.headers["Cache-Control"]
    eve.post("/console/disconnect", user="line\nbreak", client="c")
    own_redis.kill()
    answer = eve.post("/console/disconnect", user="service.1")
    assert answer.status_code == 503
    assert "Not disconnected" in answer.json()["error"]["message"]
    answer = eve.post("/console/connections", user="service.1")
    assert answer.status_code == 503
    assert "connections are unknown" in answer.json()["error"]["message"]
    for user in ("", "u" * 129):
        assert eve.post("/console/connections", user=user).status_code == 400
    eve.http.close()
    log = service.log
    assert r"staff member eve: disconnect user line\\nbreak, connection c: sent" in log
    said = "staff member eve: disconnect user service.1, connection all: broker_unavailable"
    assert said in log
    assert "Traceback" not in log
