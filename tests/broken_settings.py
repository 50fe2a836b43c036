"""The service with a setting that no variable of its environment makes: no worker can start."""

from __future__ import annotations

from notifier.settings import *  # noqa: F403 - that is what it is

REALTIME_PING_SECONDS = 0
