"""The table of the transactional outbox."""

from __future__ import annotations

import uuid

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from realtime.core.names import CHANNEL_LIMIT, FALLBACK_LIMIT
from realtime.core.publication import Fallback, Publication, When

TAG = "outbox"
"""The tag with which a row is published: its key, by which ``client.js`` recognises a copy."""
NOTIFICATIONS = "realtime_outbox"
"""The channel of PostgreSQL's NOTIFY that wakes the workers."""


class OutboxRow(models.Model):
    """A publication that was committed: waiting, published, or refused for good.

    Published rows are deleted, or kept with their position for `missed_publications`.
    """

    id = models.BigAutoField(primary_key=True)
    key = models.UUIDField(_("key"), default=uuid.uuid4, editable=False)
    """Its idempotency key, and the value of its tag. Ids begin again in a restored database."""
    created_at = models.DateTimeField(_("created at"), default=timezone.now, editable=False)
    channel = models.CharField(_("channel"), max_length=CHANNEL_LIMIT)
    body = models.TextField(_("body"))
    """The body of its envelope: ``{"data":…,"tags":{…}}``, compact JSON."""
    fallback = models.CharField(_("fallback"), max_length=FALLBACK_LIMIT, blank=True)
    fallback_when = models.CharField(_("when the fallback"), max_length=8, blank=True)
    fallback_options = models.TextField(_("options of the fallback"), blank=True)
    published_at = models.DateTimeField(_("published at"), null=True, editable=False)
    epoch = models.CharField(_("epoch"), max_length=64, blank=True, editable=False)
    """Empty until it is published."""
    offset = models.BigIntegerField(_("offset"), null=True, editable=False)
    refused = models.TextField(_("refused"), blank=True, editable=False)
    """Why it will never be published as it is; empty if that is not so."""

    class Meta:  # noqa: D106 - Django's name
        verbose_name = _("publication in the outbox")
        verbose_name_plural = _("publications in the outbox")
        indexes = (
            models.Index(fields=["published_at", "id"], name="realtime_outbox_waiting"),
            # Rows that wait have an empty epoch, so this also finds the last one of a channel.
            models.Index(
                fields=["channel", "epoch", "offset", "id"], name="realtime_outbox_position"
            ),
        )

    def __str__(self) -> str:
        return f"{self.channel} {self.key}"

    def to_publication(self) -> Publication:
        """Return the publication, as it was checked and encoded when the row was written."""
        fallback = None
        if self.fallback:
            when = When(self.fallback_when)
            fallback = Fallback(self.fallback, when, self.fallback_options.encode())
        return Publication(self.channel, self.body.encode(), str(self.key), fallback)  # type: ignore[arg-type]  # checked then
