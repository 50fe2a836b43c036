"""A foreign host project whose user and session models inherit from other models."""

from __future__ import annotations

from tests.session_settings import *  # noqa: F403 - that is what it is
from tests.session_settings import INSTALLED_APPS as WITH_USERS

INSTALLED_APPS = [*WITH_USERS, "tests.accounts"]
AUTH_USER_MODEL = "accounts.Customer"
SESSION_ENGINE = "tests.accounts.sessions"
# No migrations at all: models without migrations may not inherit from models with migrations.
MIGRATION_MODULES = dict.fromkeys(["auth", "contenttypes", "sessions"])
