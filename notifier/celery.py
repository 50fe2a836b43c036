"""The Celery app of the service: `celery -A notifier.celery worker` runs its jobs."""

from __future__ import annotations

import os
from typing import Any

from celery import signals

from realtime.contrib.celery import celery_app

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "notifier.settings")

app = celery_app(
    "notifier",
    task_ignore_result=True,  # the live states show the outcome
    # Not "celery", the queue of a project on the same Redis: a worker discards tasks of others.
    task_default_queue="notifier",
)
app.autodiscover_tasks(["notifier"], related_name="jobs")


@signals.setup_logging.connect  # type: ignore[untyped-decorator]
def keep_logging(**kwargs: Any) -> None:
    """Keep Django's logging; without a receiver Celery would configure its own."""
