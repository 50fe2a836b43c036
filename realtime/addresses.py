"""Which IP addresses are of the public internet, and of no network that may be ours.

By our own list, not by `ipaddress.is_global`: what that knows depends on the patch release of
Python (CVE-2024-4032), and it takes for public what the standards have given up: site-local and
IPv4-compatible addresses. All that has a special purpose by IANA's registries (RFC 6890) counts as
ours, also where the registry calls it globally reachable: the nearest machine answers an anycast
address, which may be our own router, and nobody has a web server there. No socket here.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

_SPECIAL_4 = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",  # this network: the machine itself
            "10.0.0.0/8",
            "100.64.0.0/10",  # behind carriers' NAT
            "127.0.0.0/8",
            "169.254.0.0/16",  # link-local: the metadata of clouds
            "172.16.0.0/12",
            "192.0.0.0/24",  # protocols: anycast of NAT and TURN, dummy, DNS64
            "192.0.2.0/24",
            "192.31.196.0/24",
            "192.52.193.0/24",
            "192.88.99.0/24",  # relays of 6to4 and 6a44
            "192.168.0.0/16",
            "192.175.48.0/24",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/4",  # multicast, in a registry of its own
            "240.0.0.0/4",
        ),
    )
)
_UNICAST_6 = IPv6Network("2000::/3")
"""All that IANA gives out as global unicast. Beyond it are the loopback and what embeds an IPv4
address (::/8, 64:ff9b:1::/48), SRv6, the unique-local, link-local, site-local (RFC 3879) and
multicast addresses."""
_SPECIAL_6 = tuple(
    map(
        IPv6Network,
        (
            "2001::/23",  # protocols: Teredo, which embeds an IPv4 address, anycast, ORCHID
            "2001:db8::/32",
            "2002::/16",  # 6to4 embeds an IPv4 address; given up (RFC 7526)
            "2620:4f:8000::/48",
            "3fff::/20",
        ),
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")
"""Where there is no IPv4 of its own, this leads to all of it (RFC 6052)."""


def is_public(address: str) -> bool:
    """Tell whether an address is one of the internet, and none of a network of our own.

    Args:
        address: As `socket.getaddrinfo` returns it, with or without the zone after a ``%``.

    Raises:
        ValueError: It is no IP address.
    """
    ip = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address):
        if ip.ipv4_mapped is None and ip not in _NAT64:
            return ip in _UNICAST_6 and not any(ip in special for special in _SPECIAL_6)
        ip = IPv4Address(int(ip) & 0xFFFFFFFF)
    return not any(ip in special for special in _SPECIAL_4)
