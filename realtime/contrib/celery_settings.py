"""What Celery has to know so that no task is lost with its worker."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from realtime.contrib.records import KEPT_SECONDS


def task_settings(task_seconds: float) -> dict[str, Any]:
    """Return how tasks are carried out: at least once, none for longer than ``task_seconds``."""
    return {
        # Only what anybody can read: whoever can write to Redis shall not execute code here.
        "accept_content": ["json"],
        "task_serializer": "json",
        "result_serializer": "json",
        # A message is gone when its task has ended, not when it began; a killed pool process
        # (out of memory, -9) gives it back at once.
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "worker_prefetch_multiplier": 1,
        "task_soft_time_limit": task_seconds,
        "task_time_limit": task_seconds + _grace(task_seconds),
        "task_track_started": True,
        "result_expires": KEPT_SECONDS,
        "broker_connection_retry_on_startup": True,
        "worker_cancel_long_running_tasks_on_connection_loss": True,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
    }


def redis_settings(task_seconds: float) -> dict[str, Any]:
    """Return what Celery has to know of our Redis."""
    # Only these two: Celery asks before Django's apps are loaded, and others may name models.
    url = getattr(settings, "REALTIME_REDIS_URL", "")
    if not url:
        raise ImproperlyConfigured("REALTIME_REDIS_URL is not set: start `make run`, or set it")
    url = kombu_url(url)
    prefix = f"{getattr(settings, 'REALTIME_REDIS_PREFIX', 'rt')}:celery:"
    visibility = task_seconds + 2 * _grace(task_seconds)
    return {
        "broker_url": url,
        "result_backend": url,
        "broker_transport_options": {
            "global_keyprefix": prefix,
            "visibility_timeout": visibility,
            # Looked for as often as that is worth, and by others soon if the one who looks dies.
            "unacked_restore_interval": max(1, min(10, int(visibility / 4))),
            "unacked_restore_throttle": 1,
            "unacked_mutex_expire": 10,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 10,
        },
        "result_backend_transport_options": {
            "global_keyprefix": prefix,
            "retry_policy": {"timeout": 5.0},
        },
        "redis_socket_connect_timeout": 5,
        "redis_socket_timeout": 10,
    }


def kombu_url(url: str) -> str:
    """Return the address of a Redis as Celery reads it: ``unix://…`` is ``redis+socket://…``."""
    parts = urlsplit(url)
    if parts.scheme != "unix":
        return url
    database = parse_qs(parts.query).get("db", ["0"])[-1]
    user = f"{parts.username or ''}:{parts.password}@" if parts.password else ""
    return f"redis+socket://{user}{parts.path}?virtual_host={database}"


def _grace(task_seconds: float) -> float:
    return max(1.0, min(30.0, task_seconds / 10))
