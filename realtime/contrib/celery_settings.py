"""What Celery has to know so that no task is lost with its worker."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from realtime.contrib.records import KEPT_SECONDS
from realtime.redis_url import read_redis_url


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
    """Return the address of a Redis as Celery reads it.

    Celery's addresses are not redis-py's: ``unix://…`` is ``redis+socket://…``, the database is
    never an option, and over TLS ``ssl_cert_reqs`` must be there (celery/backends/redis.py).

    Raises:
        ConfigurationError: It cannot be used.
    """
    parts = read_redis_url(url)
    user = f"{quote(parts.username, safe='')}:{quote(parts.password, safe='')}@"
    user = user if parts.username or parts.password else ""
    if parts.scheme == "unix":
        return f"redis+socket://{user}{parts.path}?virtual_host={parts.database}"
    host = f"[{parts.host}]" if ":" in parts.host else parts.host
    tls = {"ssl_cert_reqs": "required", **parts.tls} if parts.scheme == "rediss" else {}
    if "ssl_check_hostname" in tls:  # kombu takes "no" and "0" for a yes
        tls["ssl_check_hostname"] = str(parts.checks_hostname).lower()
    query = f"?{urlencode(tls)}" if tls else ""
    return f"{parts.scheme}://{user}{host}:{parts.port}/{parts.database}{query}"


def _grace(task_seconds: float) -> float:
    return max(1.0, min(30.0, task_seconds / 10))
