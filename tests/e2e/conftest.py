"""What several of these modules start from."""

from __future__ import annotations

import json

import pytest

from tests.e2e.test_sessions import LOG_IN, Template, run


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    database = tmp_path_factory.mktemp("site") / "template.sqlite3"
    env = {"DJANGO_SETTINGS_MODULE": "tests.session_settings", "TEST_DATABASE": str(database)}
    return Template(database, json.loads(run(LOG_IN, env)))
