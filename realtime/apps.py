"""The Django app."""

from __future__ import annotations

from django.apps import AppConfig


class RealtimeConfig(AppConfig):
    """Live notifications. No models: nothing is stored in the host's database."""

    name = "realtime"
    verbose_name = "Live notifications"

    def ready(self) -> None:
        """Register the system checks."""
        from realtime import checks, dangers  # noqa: F401 - they register by being imported
