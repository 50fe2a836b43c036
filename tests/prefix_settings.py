"""The host project of `tests.settings`, served below a path by a proxy, with pages."""

from __future__ import annotations

from tests.settings import *  # noqa: F403

FORCE_SCRIPT_NAME = "/app/live"
ROOT_URLCONF = "tests.prefix_site"
STATIC_URL = "static/"  # as `startproject` writes it: relative to the prefix
TEMPLATES = [
    {"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True, "OPTIONS": {}}
]
