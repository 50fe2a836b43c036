"""How often somebody may try to log in: counters in Redis, shared by all workers and nodes.

An attempt counts for its address (of IPv6: for its /64 and its /48), for the name and for the
account that Django finds by it; one account with many spellings (``"ada "``, ``ADA``, full-width
letters) has one counter. A name without an account is counted in the same way: no answer and no
time tells whether there is one.

Attempts count before the password is looked at, so that many at the same time gain nothing. They
are forgotten when one succeeds, and after a quarter of an hour: Redis holds no more than was tried
in that time.
"""

from __future__ import annotations

import hashlib
import ipaddress
import unicodedata
from collections.abc import Callable
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
# One customer with many networks of IPv6: a site usually gets a /48 (RFC 6177 §2). Ten times
# `ADDRESS`, since a provider may as well give each of its customers a /64 or /56 of one /48.
IPV6_SITE = 300
# Many addresses with one name. High: whoever fills it keeps its owner out as well.
NAME = 100

NOBODY = ""
REDIS_SECONDS = 1.0


class CannotCount(Exception):
    """Redis does not answer, so nobody may guess passwords meanwhile."""


def seconds_to_wait(
    address: str, name: str, find_account: Callable[[], str] = lambda: NOBODY
) -> int:
    """Count an attempt; 0 if it may go on, otherwise how long to wait.

    Args:
        address: Of the client.
        name: As Django will look it up.
        find_account: Returns the id of the account that it will find; `NOBODY` for none. Not called
            where the address or the name alone is too much already: floods cost no query.

    Raises:
        CannotCount: Redis does not answer.
    """
    source, who = _source(address), _Who(name)
    # The largest network first: whoever has a /48 makes no keys for its 65,536 networks beyond it.
    if (site := _site(address)) and (wait := _count(site, IPV6_SITE)):
        return wait
    # Then the address: what is refused for it makes no other key, whatever names it tries.
    if wait := _count(source, ADDRESS):
        return wait
    # What was refused for its address counts no more for the name: one attacker alone could
    # otherwise keep its owner out.
    if wait := _count(source, NAME_FROM_ADDRESS, who.name):
        return wait
    account = who.account(find_account())
    if wait := _count(source, NAME_FROM_ADDRESS, account):
        return wait
    return max(_count("", NAME, who.name), _count("", NAME, account))


def forget(address: str, name: str, account: str = NOBODY) -> None:
    """Take an attempt back that succeeded.

    Raises:
        CannotCount: Redis does not answer.
    """
    source, who = _source(address), _Who(name)
    names = (who.name, who.account(account))
    networks = [_key(each) for each in (_site(address), _source(address)) if each]
    try:
        with _redis().pipeline(transaction=False) as pipe:
            for each in names:
                pipe.set(_key(source, each), 0, ex=WINDOW_SECONDS)
            # They may have expired since; a counter that starts at -1 would never end.
            for key in (*networks, *(_key("", each) for each in names)):
                pipe.decr(key)
                pipe.expire(key, WINDOW_SECONDS, nx=True)
            pipe.execute()
    except redis.RedisError as error:
        raise CannotCount from error


class _Who:
    """Whose password is tried: digests of the name, and of the account behind it."""

    def __init__(self, name: str) -> None:
        # Caseless as Unicode has it (§3.13, D146): what folds to the same text is the same name.
        folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
        self._folded = folded.strip()
        self.name = _digest(self._folded)

    def account(self, found: str) -> str:
        # No name has a NUL, so none has the digest of an account.
        return _digest(f"\0{found}" if found else f"\0nobody\0{self._folded}")


def _key(*parts: str) -> str:
    prefix = f"{getattr(settings, 'REALTIME_REDIS_PREFIX', 'rt')}:login"
    return ":".join((prefix, *parts))


def _count(source: str, limit: int, *who: str) -> int:
    key = _key(source, *who)
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
    parsed = _parsed(address)
    if parsed is None:
        return _digest(address)
    if parsed.version == 4:
        return str(parsed)
    return str(ipaddress.ip_network((parsed, 64), strict=False).network_address)


def _site(address: str) -> str:
    """Return the /48 of an address of IPv6; empty for others.

    With its length: the first /64 of a /48 begins with the same address.
    """
    parsed = _parsed(address)
    if parsed is None or parsed.version == 4:
        return ""
    return str(ipaddress.ip_network((parsed, 48), strict=False))


def _parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return an address, None for a unix socket, or what a proxy made up."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return None
    return getattr(parsed, "ipv4_mapped", None) or parsed


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
