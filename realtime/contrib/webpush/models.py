"""The table of browsers that take notifications."""

from __future__ import annotations

import hashlib

from django.conf import settings
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

ENDPOINT_LIMIT = 2048
"""Characters; the longest known ones have about 600 (Windows)."""
KEY_LIMIT = 128


class BrowserSubscription(models.Model):
    """One browser in which a user has allowed notifications (Push API, ``PushSubscription``)."""

    id = models.BigAutoField(primary_key=True)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, related_name="+", verbose_name=_("user")
    )
    endpoint = models.TextField(_("endpoint"))
    """An address of the browser's push service. It is secret, although with VAPID only the owner of
    our key can send to it."""
    endpoint_hash = models.CharField(max_length=64, unique=True, editable=False)
    """SHA-256 in hex: some databases cannot make a text of that length unique."""
    p256dh = models.CharField(max_length=KEY_LIMIT)
    """The browser's public key, base64url."""
    auth = models.CharField(max_length=KEY_LIMIT)
    """The browser's authentication secret, base64url."""
    created_at = models.DateTimeField(_("created at"), default=timezone.now, editable=False)

    class Meta:  # noqa: D106 - Django's name
        verbose_name = _("browser subscription")
        verbose_name_plural = _("browser subscriptions")

    def __str__(self) -> str:
        return f"{self.pk} {self.endpoint_hash[:8]}"


def hash_endpoint(endpoint: str) -> str:
    """Return the value of ``endpoint_hash``."""
    return hashlib.sha256(endpoint.encode()).hexdigest()
