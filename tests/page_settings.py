"""The foreign host project with its own pages; the service may be on another host."""

from __future__ import annotations

import os

from tests.session_settings import *  # noqa: F403 - that is what it is

ROOT_URLCONF = "tests.page_site"
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    # All pages require a login unless a view says otherwise, as the app's views do.
    "django.contrib.auth.middleware.LoginRequiredMiddleware",
]
TEMPLATES = [
    {"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True, "OPTIONS": {}}
]
REALTIME_PUBLIC_URL = os.environ.get("TEST_PUBLIC_URL", "")
REALTIME_USER_INFO = "tests.page_site.shown"
