"""The host project of `tests.settings`, served below a path by a proxy."""

from __future__ import annotations

from tests.settings import *  # noqa: F403

FORCE_SCRIPT_NAME = "/app/live"
