"""The foreign host project without a database: whatever asks for one raises."""

from __future__ import annotations

from tests.settings import *  # noqa: F403 - that is what it is

DATABASES: dict[str, object] = {}
