"""The service with a setting that its environment variables cannot produce: no worker can start."""

from __future__ import annotations

from notifier.settings import *  # noqa: F403 - that is what it is

REALTIME_PING_SECONDS = 0
