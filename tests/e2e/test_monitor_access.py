"""Access to the page /monitor/ and its numbers: members of the staff only, with a session."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from realtime.brokers.queue_commands import QueueCommands
from tests.e2e.test_jobs_access import USERS, Browser
from tests.support.database import migrate
from tests.support.redis_server import RedisServer
from tests.support.service import DEPLOYED, Service

DEAD = QueueCommands("rt").keys.dead
Open = Callable[..., Browser]


@pytest.fixture(scope="module")
def service(redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    url = migrate(f"sqlite:///{tmp_path_factory.mktemp('monitor')}/db.sqlite3", then=USERS)
    service = Service(redis.url, DEPLOYED, DATABASE_URL=url, HTTPS="0").start()
    yield service
    log = service.log
    service.stop()
    assert "Traceback" not in log


@pytest.fixture
def somebody(service: Service) -> Iterator[Open]:
    opened: list[Browser] = []

    def open_browser(user: str = "") -> Browser:
        opened.append(Browser(service, user))
        return opened[-1]

    yield open_browser
    for browser in opened:
        browser.http.close()


def test_a_guest_is_sent_to_the_login(somebody: Open) -> None:
    stranger = somebody()
    answer = stranger.http.get("/monitor/")
    assert (answer.status_code, answer.headers["Location"]) == (302, "/login/?next=/monitor/")
    refused = stranger.http.get("/monitor/state")
    assert (refused.status_code, refused.json().keys()) == (403, {"error"})
    assert 'href="/monitor/"' not in stranger.http.get("/").text


def test_a_user_who_is_not_staff_sees_neither_page_nor_numbers(somebody: Open) -> None:
    ada = somebody("ada")
    assert ada.http.get("/monitor/").status_code == 403
    refused = ada.http.get("/monitor/state")
    assert (refused.status_code, refused.json().keys()) == (403, {"error"})
    assert 'href="/monitor/"' not in ada.http.get("/").text


def test_a_member_of_the_staff_sees_the_numbers(somebody: Open) -> None:
    eve = somebody("eve")
    assert eve.http.get("/monitor/").status_code == 200
    assert 'href="/monitor/"' in eve.http.get("/").text
    answer = eve.http.get("/monitor/state?past=1")
    assert answer.status_code == 200
    assert "no-store" in answer.headers["Cache-Control"]
    state: dict[str, Any] = answer.json()
    [node] = state["nodes"]
    assert state["is_complete"]
    assert state["silent_nodes"] == 0
    assert node["live"]
    assert node["history"]
    assert state["sums"]["realtime_nodes_live"] == [[[], 1.0]]
    assert state["queue"]["dead"] == 0
    assert eve.http.post("/monitor/state").status_code == 403  # without a CSRF token


def test_only_the_staff_moves_dead_entries_and_only_from_the_page(
    redis: RedisServer, somebody: Open
) -> None:
    ada, eve = somebody("ada"), somebody("eve")
    with redis.client() as client:
        client.rpush(DEAD, b"not an entry")
        try:
            [letter] = eve.http.get("/monitor/letters").json()["letters"]
            for browser in (ada, somebody()):
                assert browser.http.get("/monitor/letters").status_code == 403
                assert browser.post("/monitor/purge", key=letter["key"]).status_code == 403
            assert eve.post("/monitor/purge", csrf="x" * 64, key=letter["key"]).status_code == 403
            assert eve.http.get("/monitor/purge").status_code == 405
            assert client.llen(DEAD) == 1
            retried = eve.post("/monitor/retry", key=letter["key"]).json()
            assert retried == {"moved": 0, "absent": 0, "unreadable": 1}
            purged = eve.post("/monitor/purge", key=letter["key"]).json()
            assert purged == {"moved": 1, "absent": 0, "unreadable": 0}
            again = eve.post("/monitor/purge", key=letter["key"]).json()
            assert again == {"moved": 0, "absent": 1, "unreadable": 0}
        finally:
            client.delete(DEAD)


def test_logging_out_ends_the_access(somebody: Open) -> None:
    eve = somebody("eve")
    assert eve.post("/logout/").status_code == 302
    assert eve.http.get("/monitor/state").status_code == 403


def test_the_page_names_no_secret(service: Service, somebody: Open) -> None:
    """The numbers of Redis come with its address, and never with a password."""
    text = somebody("eve").http.get("/monitor/state?past=1").text
    assert "test-key" not in text
    assert "s" * 50 not in text
