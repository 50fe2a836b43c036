"""Settings of Celery with which no task is lost if its worker is killed."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from realtime.contrib.records import RECORD_SECONDS
from realtime.core.redis_address import host_part, sentinel_options, tls_options, user_part
from realtime.core.redis_url import RedisUrl, is_cluster_url, read_redis_url

NEEDS_ONE_REDIS = (
    "Celery does not know Redis Cluster: set REALTIME_JOBS_REDIS_URL (for the service: "
    "JOBS_REDIS_URL) to one Redis, or to one with sentinels"
)


def task_settings(task_seconds: float) -> dict[str, Any]:
    """Return the settings for tasks: executed at least once, for at most ``task_seconds``."""
    return {
        # Not pickle: a client that can write to Redis must not be able to execute code here.
        "accept_content": ["json"],
        "task_serializer": "json",
        "result_serializer": "json",
        # Acknowledge a message when its task has ended, not when it starts. If a pool process is
        # killed (out of memory, -9), the message is requeued immediately.
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "worker_prefetch_multiplier": 1,
        "task_soft_time_limit": task_seconds,
        "task_time_limit": task_seconds + _grace(task_seconds),
        "task_track_started": True,
        "result_expires": RECORD_SECONDS,
        "broker_connection_retry_on_startup": True,
        "worker_cancel_long_running_tasks_on_connection_loss": True,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
    }


def redis_settings(task_seconds: float) -> dict[str, Any]:
    """Return the settings for the connection to our Redis."""
    # Only three settings are read: Celery evaluates this before Django's apps are loaded, and
    # other settings may refer to models.
    own = getattr(settings, "REALTIME_JOBS_REDIS_URL", "")
    url = own or getattr(settings, "REALTIME_REDIS_URL", "")
    if not url:
        raise ImproperlyConfigured("REALTIME_REDIS_URL is not set; jobs need a Redis")
    if is_cluster_url(url):
        raise ImproperlyConfigured(NEEDS_ONE_REDIS)
    parts, url = read_redis_url(url), kombu_url(url)
    behind = _options_behind_sentinels(parts)
    prefix = f"{getattr(settings, 'REALTIME_REDIS_PREFIX', 'rt')}:celery:"
    visibility = task_seconds + 2 * _grace(task_seconds)
    return {
        "broker_url": url,
        "result_backend": url,
        "broker_transport_options": {
            "global_keyprefix": prefix,
            "visibility_timeout": visibility,
            # Search for lost messages every 10 s, or more often if the timeout is short. If the
            # searching worker is killed, its lock expires, and another one continues.
            "unacked_restore_interval": max(1, min(10, int(visibility / 4))),
            "unacked_restore_throttle": 1,
            "unacked_mutex_expire": 10,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 10,
            **behind,
        },
        "result_backend_transport_options": {
            "global_keyprefix": prefix,
            "retry_policy": {"timeout": 5.0},
            **behind,
        },
        **_tls_behind_sentinels(parts),
        "redis_socket_connect_timeout": 5,
        "redis_socket_timeout": 10,
    }


def _options_behind_sentinels(url: RedisUrl) -> dict[str, Any]:
    """Return the transport options for what Celery's URL with sentinels cannot say."""
    if url.sentinels is None:
        return {}
    return {
        "master_name": url.sentinels.master_name,
        "sentinel_kwargs": {
            **sentinel_options(url, url.sentinels),
            "socket_connect_timeout": 1,  # redis-py asks one sentinel after the other
            "socket_timeout": 1,
        },
    }


def _tls_behind_sentinels(url: RedisUrl) -> dict[str, Any]:
    """Return the settings for TLS, which a URL with sentinels cannot have."""
    if url.sentinels is None or not (tls := tls_options(url)):
        return {}
    del tls["ssl"]
    return {"broker_use_ssl": tls, "redis_backend_use_ssl": tls}


def kombu_url(url: str) -> str:
    """Return the URL of a Redis in the form that Celery parses.

    Celery's URLs differ from redis-py's: ``unix://…`` is ``redis+socket://…``, the database is
    never an option, and TLS requires ``ssl_cert_reqs`` (celery/backends/redis.py). With sentinels,
    Celery needs the other settings of `redis_settings`, too.

    Raises:
        ConfigurationError: The URL is invalid.
    """
    parts = read_redis_url(url)
    user = user_part(parts.username, parts.password)
    if parts.sentinels is not None:
        servers = [
            f"{user}{host_part(each)}/{parts.database}" for each in parts.sentinels.addresses
        ]
        return ";".join(f"sentinel://{each}" for each in servers)
    if parts.scheme == "unix":
        return f"redis+socket://{user}{parts.path}?virtual_host={parts.database}"
    host = host_part((parts.host, parts.port))
    tls = {"ssl_cert_reqs": "required", **parts.tls} if parts.scheme == "rediss" else {}
    if "ssl_check_hostname" in tls:  # kombu interprets "no" and "0" as true
        tls["ssl_check_hostname"] = str(parts.checks_hostname).lower()
    query = f"?{urlencode(tls)}" if tls else ""
    return f"{parts.scheme}://{user}{host}/{parts.database}{query}"


def _grace(task_seconds: float) -> float:
    return max(1.0, min(30.0, task_seconds / 10))
