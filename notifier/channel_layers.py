"""The channel layer of the service, for this project's own consumers; `realtime` needs none.

Not channels_redis' core layer: with redis-py 8 its idle consumers die after 5 s
(django/channels_redis#422).
"""

from __future__ import annotations

from typing import Any

from realtime.core.redis_address import sentinel_options, tls_options
from realtime.core.redis_url import is_cluster_url, read_redis_url


def channel_layers(redis_url: str) -> dict[str, Any]:
    """Return Django's setting ``CHANNEL_LAYERS``.

    Without a Redis, and with Redis Cluster, which channels_redis does not know, there is no layer.
    """
    if not redis_url or is_cluster_url(redis_url):
        return {}
    return {
        "default": {
            "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
            "CONFIG": {"hosts": [_host(redis_url)], "serializer_format": "json"},
        }
    }


def _host(redis_url: str) -> str | dict[str, Any]:
    url = read_redis_url(redis_url)
    if url.sentinels is None:
        return redis_url
    given = {"username": url.username, "password": url.password, "client_name": url.client_name}
    return {
        "sentinels": list(url.sentinels.addresses),
        "master_name": url.sentinels.master_name,
        "sentinel_kwargs": sentinel_options(url, url.sentinels),
        "db": url.database,
        **{name: value for name, value in given.items() if value},
        **tls_options(url),
    }
