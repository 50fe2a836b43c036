"""The Django app."""

from __future__ import annotations

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class RealtimeAdminConfig(AppConfig):
    """The pages of the admin. No tables: nothing is stored but permissions and log entries."""

    name = "realtime.contrib.admin"
    label = "realtime_admin"  # the last part of the name is that of Django's own admin
    verbose_name = _("Live notifications")
