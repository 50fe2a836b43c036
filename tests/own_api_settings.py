"""The foreign host project with its own API (`tests.own_api`)."""

from __future__ import annotations

import os

from tests.settings import *  # noqa: F403 - that is what it is

ROOT_URLCONF = "tests.own_api"
MIDDLEWARE = ["tests.own_api.mark"]
REALTIME_PATH_PREFIX = os.environ.get("TEST_PATH_PREFIX", "/")
