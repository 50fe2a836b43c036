"""The Django app."""

from __future__ import annotations

from django.apps import AppConfig, apps
from django.core.signals import request_started
from django.utils.module_loading import autodiscover_modules


class RealtimeConfig(AppConfig):
    """Live notifications. No models: nothing is stored in the host's database."""

    name = "realtime"
    verbose_name = "Live notifications"

    def ready(self) -> None:
        """Register the system checks and fallbacks, and connect the signals that revoke rights."""
        from realtime.checks import (  # noqa: F401 - they register by being imported
            deploy,
            lifespan,
            replicas,
            runserver,
            settings,
            urls,
            websocket_route,
        )
        from realtime.transports.misdirected import notice_wsgi

        request_started.connect(notice_wsgi)
        if apps.is_installed("django.contrib.auth"):
            from realtime.host import signals

            signals.connect()
        autodiscover_modules("fallbacks")
