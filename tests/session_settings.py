"""The foreign host project with users, whose sessions are in a database; the app needs none."""

from __future__ import annotations

import os

from tests.settings import *  # noqa: F403 - that is what it is
from tests.settings import INSTALLED_APPS as WITHOUT_USERS

INSTALLED_APPS = [
    *WITHOUT_USERS,
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
]
MIDDLEWARE = [
    "django.middleware.common.CommonMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("TEST_DATABASE", ":memory:"),
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
