"""The service's Celery: `celery -A notifier.celery worker` runs its jobs."""

from __future__ import annotations

import os
from typing import Any

from celery import signals

from realtime.contrib.celery import celery_app

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "notifier.settings")

app = celery_app("notifier", task_ignore_result=True)  # whoever wants to know looks at its states
app.autodiscover_tasks(["notifier"], related_name="jobs")


@signals.setup_logging.connect  # type: ignore[untyped-decorator]
def keep_logging(**kwargs: Any) -> None:
    """Leave the log to Django's settings; without a receiver Celery would make its own."""
