"""Writes the URLs of single servers, as redis-py parses them, for a Redis behind sentinels."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

if TYPE_CHECKING:
    from realtime.core.redis_url import Address, RedisUrl, Sentinels


def master_url(url: RedisUrl, address: Address) -> str:
    """Return the URL of the Redis at this address, with the other parts of a URL."""
    options = {"client_name": url.client_name} if url.client_name else {}
    query = urlencode({**url.tls, **options})
    user = user_part(url.username, url.password)
    return f"{url.scheme}://{user}{host_part(address)}/{url.database}{query and '?'}{query}"


def sentinel_urls(url: RedisUrl, sentinels: Sentinels) -> list[str]:
    """Return the URL of each sentinel, which has the TLS options of the master."""
    own = url._replace(username=sentinels.username, password=sentinels.password, database=0)
    return [master_url(own, address) for address in sentinels.addresses]


def user_part(username: str, password: str) -> str:
    """Return what stands before the host of a URL; empty without credentials."""
    if not username and not password:
        return ""
    return f"{quote(username, safe='')}:{quote(password, safe='')}@"


def host_part(address: Address) -> str:
    """Return host and port as in a URL."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
