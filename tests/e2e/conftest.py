"""Fixtures that several of these modules share."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from tests.e2e.test_sessions import LOG_IN, Template, run
from tests.support.database import migrate
from tests.support.overheard_channel import Heard
from tests.support.redis_server import RedisServer
from tests.support.service import Service


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    database = tmp_path_factory.mktemp("site") / "template.sqlite3"
    env = {"DJANGO_SETTINGS_MODULE": "tests.session_settings", "TEST_DATABASE": str(database)}
    return Template(database, json.loads(run(LOG_IN, env)))


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    """One Valkey for a module; nothing from other tests is published on its channels."""
    server = RedisServer().start()
    yield server
    server.stop()


@pytest.fixture
def heard(redis: RedisServer) -> Iterator[Heard]:
    """The publications on it."""
    with Heard(redis) as listening:
        yield listening


@pytest.fixture(scope="module")
def page_database(tmp_path_factory: pytest.TempPathFactory) -> str:
    from tests.support.pages import USERS

    return migrate(f"sqlite:///{tmp_path_factory.mktemp('pages')}/db.sqlite3", then=USERS)


@pytest.fixture(scope="module")
def page_service(redis: RedisServer, page_database: str) -> Iterator[Service]:
    """The service with its pages, for tests that do not stop it."""
    from tests.support.pages import SERVICE

    service = Service(redis.url, **SERVICE, DATABASE_URL=page_database).start()
    yield service
    assert "Traceback" not in service.log
    service.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def open_page(page_service: Service, chromium: Any) -> AsyncIterator[Any]:
    """Open a page of it in a browser of its own, as a guest or as a user (`pages.Open`)."""
    from tests.support.pages import Pages, own_contexts

    async with own_contexts(chromium) as browser:
        yield Pages(browser, page_service).open
