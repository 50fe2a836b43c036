"""A foreign host project: Django with the app, and nothing of the service."""

from __future__ import annotations

import json
import os

from tests.support.chat import CHAT

SECRET_KEY = "only for tests"
DEBUG = False
ALLOWED_HOSTS = ["testserver", "localhost", "127.0.0.1"]
INSTALLED_APPS = ["realtime", "realtime.contrib.outbox", "django.contrib.staticfiles", "tests.shop"]
ROOT_URLCONF = "tests.urls"
ASGI_APPLICATION = "tests.asgi.application"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
USE_TZ = True
STATIC_URL = "/static/"

REALTIME_REDIS_URL = os.environ.get("TEST_REDIS_URL", "")
REALTIME_JOBS_REDIS_URL = os.environ.get("TEST_JOBS_REDIS_URL", "")
REALTIME_REDIS_PREFIX = os.environ.get("TEST_REDIS_PREFIX", "rt")
REALTIME_API_KEY = "test-key"
REALTIME_TOKEN_SECRET = "a secret of the tests alone, long enough"
REALTIME_RPC = os.environ.get("TEST_RPC", "tests.shop.rpc.answer")
REALTIME_ALLOWED_ORIGINS = [
    "https://app.example.com",
    *os.environ.get("TEST_ALLOWED_ORIGINS", "").split(),
]
REALTIME_NAMESPACES = {
    "latest": {
        "allow_subscribe_for_client": True,
        "allow_subscribe_for_anonymous": True,
        "overflow": "latest",
    },
    "told": {
        "allow_subscribe_for_client": True,
        "allow_subscribe_for_anonymous": True,
        "presence": True,
        "join_leave": True,
        "force_push_join_leave": True,
    },
    "chat": CHAT,
    "members": {"allow_subscribe_for_client": True, "allow_publish_for_subscriber": True},
    "cut": {
        "allow_subscribe_for_client": True,
        "allow_subscribe_for_anonymous": True,
        "overflow": "disconnect",
    },
}
REALTIME_CLOUDEVENTS = json.loads(os.environ.get("TEST_CLOUDEVENTS", "[]"))
# TEST_PING_SECONDS=1 in the environment of a server sets REALTIME_PING_SECONDS.
for _name, _value in os.environ.items():
    if _name.startswith("TEST_") and _value.isdecimal():
        globals()[f"REALTIME_{_name.removeprefix('TEST_')}"] = int(_value)
