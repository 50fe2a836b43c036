"""The foreign host project with the site of `tests.outbox_site`, on a database that is given."""

from __future__ import annotations

import os
from typing import Any

import dj_database_url

from tests.settings import *  # noqa: F403 - that is what it is

ROOT_URLCONF = "tests.outbox_site"
TEMPLATES = [
    {"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True, "OPTIONS": {}}
]
_database: Any = dj_database_url.parse(os.environ["TEST_DATABASE_URL"])
if _database["ENGINE"].endswith("sqlite3"):
    # Django's advice for a SQLite with several writers (docs/ref/databases).
    _database["OPTIONS"] = {
        "timeout": 20,
        "transaction_mode": "IMMEDIATE",
        "init_command": "PRAGMA journal_mode=WAL;",
    }
DATABASES = {"default": _database}
REALTIME_OUTBOX_KEEP_SECONDS = 3600
