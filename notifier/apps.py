"""The Django app of the service."""

from __future__ import annotations

from django.apps import AppConfig
from django.conf import settings


class NotifierConfig(AppConfig):
    """Prepares each process that uses Django."""

    name = "notifier"

    def ready(self) -> None:
        """Export spans if tracing is on."""
        if getattr(settings, "REALTIME_TRACING", False):
            from notifier.tracing import export_spans  # loads nothing otherwise

            export_spans()
