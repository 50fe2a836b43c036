"""The Django app."""

from __future__ import annotations

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class RealtimeWebpushConfig(AppConfig):
    """The subscriptions of browsers, and the fallback that notifies them."""

    name = "realtime.contrib.webpush"
    label = "realtime_webpush"
    default_auto_field = "django.db.models.BigAutoField"
    verbose_name = _("Live notifications: web push")
