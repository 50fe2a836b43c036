"""What a URL with sentinels says, in the forms that redis-py takes.

It parses the URLs of single servers, and has classes for Sentinel that take options, which Celery
and channels_redis use.
"""

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


def sentinel_options(url: RedisUrl, sentinels: Sentinels) -> dict[str, str | int | bool]:
    """Return the options for connections to sentinels."""
    given = {"username": sentinels.username, "password": sentinels.password}
    return {**{name: value for name, value in given.items() if value}, **tls_options(url)}


def tls_options(url: RedisUrl) -> dict[str, str | int | bool]:
    """Return the options for TLS; none without it."""
    if url.scheme != "rediss":
        return {}
    options: dict[str, str | int | bool] = {"ssl": True, "ssl_cert_reqs": "required", **url.tls}
    if "ssl_check_hostname" in url.tls:
        options["ssl_check_hostname"] = url.checks_hostname
    if "ssl_min_version" in url.tls:
        options["ssl_min_version"] = int(url.tls["ssl_min_version"])
    return options


def user_part(username: str, password: str) -> str:
    """Return what stands before the host of a URL; empty without credentials."""
    if not username and not password:
        return ""
    return f"{quote(username, safe='')}:{quote(password, safe='')}@"


def host_part(address: Address) -> str:
    """Return host and port as in a URL."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
