"""Fixtures that several of these modules share."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.e2e.test_sessions import LOG_IN, Template, run
from tests.support.overheard_channel import Heard
from tests.support.redis_server import RedisServer


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
