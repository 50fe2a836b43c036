"""The table of the transactional outbox."""

from __future__ import annotations

import uuid

import django.utils.timezone
from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="OutboxRow",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("key", models.UUIDField(default=uuid.uuid4, editable=False, verbose_name="key")),
                (
                    "created_at",
                    models.DateTimeField(
                        default=django.utils.timezone.now, editable=False, verbose_name="created at"
                    ),
                ),
                ("channel", models.CharField(max_length=255, verbose_name="channel")),
                ("body", models.TextField(verbose_name="body")),
                ("fallback", models.CharField(blank=True, max_length=64, verbose_name="fallback")),
                (
                    "fallback_when",
                    models.CharField(blank=True, max_length=8, verbose_name="when the fallback"),
                ),
                (
                    "fallback_options",
                    models.TextField(blank=True, verbose_name="options of the fallback"),
                ),
                (
                    "published_at",
                    models.DateTimeField(editable=False, null=True, verbose_name="published at"),
                ),
                (
                    "epoch",
                    models.CharField(
                        blank=True, editable=False, max_length=64, verbose_name="epoch"
                    ),
                ),
                (
                    "offset",
                    models.BigIntegerField(editable=False, null=True, verbose_name="offset"),
                ),
                ("refused", models.TextField(blank=True, editable=False, verbose_name="refused")),
            ],
            options={
                "verbose_name": "publication in the outbox",
                "verbose_name_plural": "publications in the outbox",
                "indexes": [
                    models.Index(fields=["published_at", "id"], name="realtime_outbox_waiting"),
                    models.Index(
                        fields=["channel", "epoch", "offset", "id"], name="realtime_outbox_position"
                    ),
                ],
            },
        ),
    ]
