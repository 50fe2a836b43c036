"""How often somebody may try to log in: three counters in Redis, shared by all workers and nodes.

Attempts count before the password is looked at, so that many at the same time gain nothing. They
are forgotten when one succeeds, and after a quarter of an hour: Redis holds no more than was tried
in that time.
"""

from __future__ import annotations

import hashlib
import ipaddress
from functools import cache

import redis
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

WINDOW_SECONDS = 15 * 60
# What a person mistypes; Django's own documentation and OWASP name 5, fail2ban 5 in 10 minutes.
NAME_FROM_ADDRESS = 5
# One address with many names (credential stuffing), and a whole office behind one address.
ADDRESS = 30
# Many addresses with one name. High: whoever fills it keeps its owner out as well.
NAME = 100

REDIS_SECONDS = 1.0


class CannotCount(Exception):
    """Redis does not answer, so nobody may guess passwords meanwhile."""


def seconds_to_wait(address: str, name: str) -> int:
    """Count an attempt; 0 if it may go on, otherwise how long to wait.

    Raises:
        CannotCount: Redis does not answer.
    """
    keys = _Keys(address, name)
    waits = [_count(keys.name_from_address, NAME_FROM_ADDRESS), _count(keys.address, ADDRESS)]
    # What was refused for its address counts no more for the name: one attacker alone could
    # otherwise keep its owner out.
    return max(waits) or _count(keys.name, NAME)


def forget(address: str, name: str) -> None:
    """Take an attempt back that succeeded.

    Raises:
        CannotCount: Redis does not answer.
    """
    keys = _Keys(address, name)
    try:
        with _redis().pipeline(transaction=False) as pipe:
            pipe.set(keys.name_from_address, 0, ex=WINDOW_SECONDS)
            # They may have expired since; a counter that starts at -1 would never end.
            for key in (keys.address, keys.name):
                pipe.decr(key)
                pipe.expire(key, WINDOW_SECONDS, nx=True)
            pipe.execute()
    except redis.RedisError as error:
        raise CannotCount from error


class _Keys:
    def __init__(self, address: str, name: str) -> None:
        prefix = f"{getattr(settings, 'REALTIME_REDIS_PREFIX', 'rt')}:login"
        source, account = _source(address), _digest(name.casefold())
        self.name_from_address = f"{prefix}:{source}:{account}"
        self.address = f"{prefix}:{source}"
        self.name = f"{prefix}::{account}"


def _count(key: str, limit: int) -> int:
    try:
        with _redis().pipeline(transaction=False) as pipe:
            pipe.incr(key)
            pipe.expire(key, WINDOW_SECONDS, nx=True)
            pipe.ttl(key)
            attempts, _, left = pipe.execute()
    except redis.RedisError as error:
        raise CannotCount from error
    return max(1, left) if attempts > limit else 0


def _source(address: str) -> str:
    """Return whose address it is: of IPv6, one customer has a /64 at the least."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:  # a unix socket, or what a proxy made up
        return _digest(address)
    if parsed.version == 4:
        return str(parsed)
    mapped = getattr(parsed, "ipv4_mapped", None)
    return str(mapped or ipaddress.ip_network((parsed, 64), strict=False).network_address)


def _digest(text: str) -> str:
    # Names are not written down where a key may be seen, and their length is nobody's choice.
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:24]


def _redis() -> redis.Redis:
    return _client(getattr(settings, "REALTIME_REDIS_URL", ""))


@cache
def _client(url: str) -> redis.Redis:
    return redis.Redis.from_url(
        url,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=REDIS_SECONDS,
        socket_connect_timeout=REDIS_SECONDS,
    )
