"""The foreign host project without a database: every use of one raises."""

from __future__ import annotations

from tests.settings import *  # noqa: F403 - that is what it is

DATABASES: dict[str, object] = {}
