"""The Django app."""

from __future__ import annotations

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class RealtimeOutboxConfig(AppConfig):
    """The transactional outbox: one table, and the command that publishes its rows."""

    name = "realtime.contrib.outbox"
    label = "realtime_outbox"
    default_auto_field = "django.db.models.BigAutoField"
    verbose_name = _("Live notifications: outbox")
