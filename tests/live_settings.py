"""The foreign host project with the pages of `tests.live_site`."""

from __future__ import annotations

from tests.settings import *  # noqa: F403 - that is what it is
from tests.settings import INSTALLED_APPS as OTHERS

INSTALLED_APPS = [*OTHERS, "django_htmx"]
ROOT_URLCONF = "tests.live_site"
TEMPLATES = [
    {"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True, "OPTIONS": {}}
]
