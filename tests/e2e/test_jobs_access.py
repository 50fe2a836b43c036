"""Access to jobs: in production, users see, start and cancel only their own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.database import migrate
from tests.support.redis_server import RedisServer
from tests.support.service import DEPLOYED, Service

USERS = """
from django.contrib.auth.models import User
for name in ("ada", "ben"):
    User.objects.create_user(name, password="a password")
User.objects.create_user("eve", password="a password", is_staff=True)
"""


@pytest.fixture
def service(own_redis: RedisServer, serve: Callable[..., Service], tmp_path: Path) -> Service:
    url = migrate(f"sqlite:///{tmp_path}/db.sqlite3", then=USERS)
    return serve(own_redis.url, DEPLOYED, DATABASE_URL=url, HTTPS="0")


@pytest.fixture
def somebody(service: Service) -> Iterator[Callable[..., Browser]]:
    opened: list[Browser] = []

    def open_browser(user: str = "") -> Browser:
        opened.append(Browser(service, user))
        return opened[-1]

    yield open_browser
    for browser in opened:
        browser.http.close()


class Browser:
    """A user with cookies, who may be logged in."""

    def __init__(self, service: Service, user: str = "") -> None:
        self.http = httpx.Client(base_url=service.http, headers={"Origin": service.http})
        if user:
            fields = {"username": user, "password": "a password", "next": "/jobs/"}
            self.http.get("/login/")
            answer = self.post("/login/", **fields)
            assert answer.status_code == 302, answer.text

    def post(self, path: str, *, csrf: str | None = None, **fields: str) -> httpx.Response:
        if csrf is None:
            page = self.http.get("/jobs/", follow_redirects=True).text
            csrf = re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', page)[-1]
        return self.http.post(path, data=fields, headers={"X-CSRFToken": csrf})

    def jobs(self) -> Any:
        return self.http.get("/jobs/state").json()["jobs"]


def test_an_anonymous_visitor_can_neither_see_nor_start_jobs(
    somebody: Callable[..., Browser],
) -> None:
    stranger = somebody()
    assert stranger.http.get("/jobs/").headers["Location"] == "/login/?next=/jobs/"
    assert stranger.http.get("/jobs/state").status_code == 403
    assert stranger.post("/jobs/start").status_code == 403
    assert stranger.http.get("/jobs/start").status_code == 405


def test_a_page_of_another_site_cannot_start_jobs(somebody: Callable[..., Browser]) -> None:
    ada = somebody("ada")
    assert ada.post("/jobs/start", csrf="").status_code == 403
    assert ada.post("/jobs/start", csrf="x" * 64).status_code == 403
    ada.http.headers["Origin"] = "https://evil.example"
    assert ada.post("/jobs/start").status_code == 403
    assert ada.jobs() == []


def test_users_cancel_their_own_jobs_and_staff_any(somebody: Callable[..., Browser]) -> None:
    ada, ben, eve = map(somebody, ("ada", "ben", "eve"))
    job = ada.post("/jobs/start").json()["id"]
    assert [entry["owner"] for entry in ben.jobs()] == ["ada"]
    assert [entry["mine"] for browser in (ada, ben, eve) for entry in browser.jobs()] == [
        *(True, False, True)
    ]
    assert ben.post(f"/jobs/{job}/cancel").status_code == 403
    unknown = "00000000-0000-0000-0000-000000000000"
    assert ada.post(f"/jobs/{unknown}/cancel").status_code == 403
    assert eve.post(f"/jobs/{job}/cancel").status_code == 200
    assert ada.post(f"/jobs/{job}/cancel").status_code == 200


def test_a_user_with_three_jobs_cannot_start_a_fourth(somebody: Callable[..., Browser]) -> None:
    ada, ben = somebody("ada"), somebody("ben")
    assert [ada.post("/jobs/start").status_code for _ in range(4)] == [201, 201, 201, 409]
    assert ben.post("/jobs/start").status_code == 201


def test_without_redis_the_page_says_so_and_creates_no_job(
    service: Service, own_redis: RedisServer, somebody: Callable[..., Browser]
) -> None:
    ada = somebody("ada")
    own_redis.kill()
    answer = ada.post("/jobs/start")
    assert answer.status_code == 503
    assert "The job was not started" in answer.json()["error"]["message"]
    assert ada.http.get("/jobs/state").status_code == 503
    assert "Traceback" not in service.log
