"""Limits login attempts with counters in Redis, shared by all workers and nodes.

An attempt counts for its address (for IPv6, for its /64 and its /48), for the name, and for the
account that Django finds by it: one account with many spellings (``"ada "``, ``ADA``, full-width
letters) has one counter. A name without an account is counted in the same way, so neither the
response nor its timing reveals whether there is one.

Attempts count before the password is checked, so that sending many at the same time gains nothing.
They are forgotten when one succeeds, and after a quarter of an hour, so Redis stores only the
attempts of that time.
"""

from __future__ import annotations

import hashlib
import ipaddress
import unicodedata
from collections.abc import Callable

from realtime.errors import BrokerError
from realtime.wiring import redis_broker

WINDOW_SECONDS = 15 * 60
# Typing mistakes. Django's own documentation and OWASP suggest 5, fail2ban 5 in 10 minutes.
NAME_FROM_ADDRESS = 5
# One address with many names (credential stuffing), but also a whole office behind one address.
ADDRESS = 30
# One customer with many IPv6 networks: a site usually gets a /48 (RFC 6177 §2). Ten times
# `ADDRESS`, since a provider may also give each of its customers a /64 or /56 of one /48.
IPV6_SITE = 300
# Many addresses with one name. High, because an attacker who reaches it locks the owner out, too.
NAME = 100

NOBODY = ""
NAME_CHARACTERS = 254
"""Of a name; no account has a longer one (150 for a user name of Django, 254 for an address)."""
_Command = tuple[str | int, ...]


class CannotCount(Exception):
    """Redis does not respond, so no login attempt is allowed."""


def seconds_to_wait(
    address: str, name: str, find_account: Callable[[], str] = lambda: NOBODY
) -> int:
    """Count an attempt; return 0 if it may proceed, otherwise the seconds to wait.

    Args:
        address: The client's address.
        name: As Django will look it up.
        find_account: Returns the id of the account that Django will find; `NOBODY` for none. Not
            called if the address or the name alone is over its limit, so floods cost no query.

    Raises:
        CannotCount: Redis does not respond.
    """
    source, who = _source(address), _Who(name)
    # The largest network first: above its limit, a /48 creates no keys for its 65,536 networks.
    if (prefix := _prefix48(address)) and (wait := _count(prefix, IPV6_SITE)):
        return wait
    # Then the address: above its limit, it creates no other key, whatever names it tries.
    if wait := _count(source, ADDRESS):
        return wait
    # An attempt rejected for its address does not count for the name: otherwise a single attacker
    # could lock the owner out.
    if wait := _count(source, NAME_FROM_ADDRESS, who.name):
        return wait
    account = who.account(find_account())
    if wait := _count(source, NAME_FROM_ADDRESS, account):
        return wait
    return max(_count("", NAME, who.name), _count("", NAME, account))


def forget(address: str, name: str, account: str = NOBODY) -> None:
    """Undo the count of an attempt that succeeded.

    Raises:
        CannotCount: Redis does not respond.
    """
    source, who = _source(address), _Who(name)
    names = (who.name, who.account(account))
    networks = [each for each in (_prefix48(address), source) if each]
    undo: list[_Command] = []
    try:
        reset = [("SET", _key(source, each), 0, "EX", WINDOW_SECONDS) for each in names]
        # They may have expired by now; a counter created at -1 would never expire.
        for key in (*map(_key, networks), *(_key("", each) for each in names)):
            undo += [("DECRBY", key, 1), ("EXPIRE", key, WINDOW_SECONDS, "NX")]
        redis_broker().ask([*reset, *undo])
    except BrokerError as error:
        raise CannotCount from error


class _Who:
    """Whose password is tried: digests of the name and of the account it belongs to."""

    def __init__(self, name: str) -> None:
        # Normalizing takes time in the square of the length of a run of combining characters
        # (python/cpython#149079): a form of 64 KiB stopped the whole process for 2.7 s.
        name = name[:NAME_CHARACTERS]
        # Caseless matching (Unicode §3.13, D146): texts with the same folding are the same name.
        folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
        self._folded = folded.strip()
        self.name = _digest(self._folded)

    def account(self, found: str) -> str:
        # No name contains a NUL, so no name has the digest of an account.
        return _digest(f"\0{found}" if found else f"\0nobody\0{self._folded}")


def _key(*parts: str) -> str:
    return redis_broker().beside("login:", ":".join(parts))


def _count(source: str, limit: int, *who: str) -> int:
    try:
        key = _key(source, *who)
        attempts, _, left = redis_broker().ask(
            [("INCRBY", key, 1), ("EXPIRE", key, WINDOW_SECONDS, "NX"), ("TTL", key)]
        )
    except BrokerError as error:
        raise CannotCount from error
    return max(1, int(left)) if attempts > limit else 0


def _source(address: str) -> str:
    """Return the network of an address: for IPv6, a customer has at least a /64."""
    parsed = _parse(address)
    if parsed is None:
        return _digest(address)
    if parsed.version == 4:
        return str(parsed)
    return str(ipaddress.ip_network((parsed, 64), strict=False).network_address)


def _prefix48(address: str) -> str:
    """Return the /48 of an IPv6 address; empty for others.

    Keeps the prefix length: without it, a /48 and its first /64 would be equal.
    """
    parsed = _parse(address)
    if parsed is None or parsed.version == 4:
        return ""
    return str(ipaddress.ip_network((parsed, 48), strict=False))


def _parse(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Parse an address; None for a Unix socket, or for junk from a proxy."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return None
    return getattr(parsed, "ipv4_mapped", None) or parsed


def _digest(text: str) -> str:
    # Hashed: names must not be visible in keys, and clients must not choose a key's length.
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:24]
