"""The foreign host project with the pages of `tests.bell_site`."""

from __future__ import annotations

from tests.page_settings import *  # noqa: F403 - that is what it is

ROOT_URLCONF = "tests.bell_site"
