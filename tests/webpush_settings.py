"""The foreign host project with users who allow notifications (`tests.webpush_site`)."""

from __future__ import annotations

import os

from tests.session_settings import *  # noqa: F403 - that is what it is
from tests.session_settings import INSTALLED_APPS as OTHERS

INSTALLED_APPS = [*OTHERS, "realtime.contrib.webpush"]
ROOT_URLCONF = "tests.webpush_site"
TEMPLATES = [
    {"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True, "OPTIONS": {}}
]
REALTIME_WEBPUSH_PRIVATE_KEY = "yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw"  # RFC 8291, App. A
REALTIME_WEBPUSH_SUBJECT = "mailto:ops@example.com"
REALTIME_WEBPUSH_ALLOW_PRIVATE = not os.environ.get("TEST_PUBLIC_ONLY")
REALTIME_WEBPUSH_OTHERWISE = os.environ.get("TEST_OTHERWISE", "")
EMAIL_BACKEND = "django.core.mail.backends.filebased.EmailBackend"
EMAIL_FILE_PATH = os.environ.get("TEST_MAILS", "/dev/null")
