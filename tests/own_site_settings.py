"""The foreign host project with users and with the pages of `tests.own_site`."""

from __future__ import annotations

from tests.session_settings import *  # noqa: F403 - that is what it is

ROOT_URLCONF = "tests.own_site"
