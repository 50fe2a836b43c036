"""What the pages of the admin are about: models without tables, for permissions and log entries."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.utils.translation import gettext_lazy as _

LABEL = "realtime_admin"


class NoRows(models.Manager[Any]):
    """A manager that never asks the database, which has no such table.

    `dumpdata` reads every model, also one that is not managed.
    """

    def get_queryset(self) -> models.QuerySet[Any]:
        """Return no objects."""
        return super().get_queryset().none()


class DeadLetter(models.Model):
    """A publication for which all attempts of its fallback failed."""

    id = models.CharField(_("ID"), max_length=255, primary_key=True)

    objects = NoRows()

    class Meta:  # noqa: D106 - Django's name
        app_label = LABEL
        managed = False
        base_manager_name = "objects"
        verbose_name = _("dead letter")
        verbose_name_plural = _("dead letters")
        default_permissions = ("view",)
        permissions = (
            ("retry_deadletter", "Can retry dead letters"),
            ("purge_deadletter", "Can purge dead letters"),
        )

    def __str__(self) -> str:
        return self.id


class LiveChannel(models.Model):
    """A channel on which clients are."""

    name = models.CharField(_("name"), max_length=255, primary_key=True)

    objects = NoRows()

    class Meta:  # noqa: D106 - Django's name
        app_label = LABEL
        managed = False
        base_manager_name = "objects"
        verbose_name = _("channel")
        verbose_name_plural = _("channels")
        default_permissions = ("view",)

    def __str__(self) -> str:
        return self.name


class LiveUser(models.Model):
    """A user who has connections."""

    id = models.CharField(_("ID"), max_length=255, primary_key=True)

    objects = NoRows()

    class Meta:  # noqa: D106 - Django's name
        app_label = LABEL
        managed = False
        base_manager_name = "objects"
        verbose_name = _("live user")
        verbose_name_plural = _("live users")
        default_permissions = ("view",)
        permissions = (("disconnect_liveuser", "Can disconnect live users"),)

    def __str__(self) -> str:
        return self.id
