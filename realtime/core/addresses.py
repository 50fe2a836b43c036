"""Decide whether an IP address is on the public internet, as opposed to a network of our own.

This uses its own list instead of `ipaddress.is_global`, whose answers depend on the patch release
of Python (CVE-2024-4032), and which treats deprecated ranges (site-local and IPv4-compatible) as
public. Every range in IANA's special-purpose registries (RFC 6890) counts as ours, even where the
registry calls it globally reachable: an anycast address is answered by the nearest machine, which
may be our own router, and nobody runs a web server there.

IPv6 formats that embed an IPv4 address at a known position are rejected entirely, even if the
embedded address is public (Teredo, 6to4, ISATAP, IPv4-compatible, IPv4-translated, local-use
NAT64). There are two exceptions, for which the embedded address decides: IPv4-mapped addresses and
NAT64 with the well-known prefix. Addresses embedded under a network-specific prefix (NAT64, RFC
6052 §2.2; 6rd, RFC 5969) cannot be told from any other address. No sockets here.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

_SPECIAL_4 = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",  # "this network": the machine itself
            "10.0.0.0/8",
            "100.64.0.0/10",  # carrier-grade NAT
            "127.0.0.0/8",
            "169.254.0.0/16",  # link-local: cloud metadata services
            "172.16.0.0/12",
            "192.0.0.0/24",  # protocol assignments: anycast NAT and TURN, dummy, DNS64
            "192.0.2.0/24",
            "192.31.196.0/24",
            "192.52.193.0/24",
            "192.88.99.0/24",  # 6to4 and 6a44 relays
            "192.168.0.0/16",
            "192.175.48.0/24",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/4",  # multicast, which has a registry of its own
            "240.0.0.0/4",
        ),
    )
)
_UNICAST_6 = IPv6Network("2000::/3")
"""Everything that IANA allocates as global unicast. Outside it are the loopback address, formats
that embed an IPv4 address (::/8, 64:ff9b:1::/48), SRv6, and unique-local, link-local, site-local
(RFC 3879) and multicast addresses."""
_SPECIAL_6 = tuple(
    map(
        IPv6Network,
        (
            "2001::/23",  # protocol assignments: Teredo (embeds IPv4), anycast, ORCHID
            "2001:db8::/32",
            "2002::/16",  # 6to4 embeds an IPv4 address; deprecated (RFC 7526)
            "2620:4f:8000::/48",
            "3fff::/20",
        ),
    )
)
_ISATAP = 0x00005EFE
"""Upper half of an interface identifier that embeds an IPv4 address (RFC 5214 §6.1)."""
_ISATAP_MASK = 0xFCFFFFFF  # the u and g bits (RFC 4291, appendix A) may be set or not
_NAT64 = IPv6Network("64:ff9b::/96")
"""On networks without native IPv4, this prefix reaches all of IPv4 (RFC 6052)."""


def is_public(address: str) -> bool:
    """Return whether an address is on the public internet and not on a network of our own.

    Args:
        address: As `socket.getaddrinfo` returns it, with or without the zone after a ``%``.

    Raises:
        ValueError: It is not an IP address.
    """
    ip = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address):
        if ip.ipv4_mapped is None and ip not in _NAT64:
            return (
                ip in _UNICAST_6
                and not any(ip in special for special in _SPECIAL_6)
                and int(ip) >> 32 & _ISATAP_MASK != _ISATAP
            )
        ip = IPv4Address(int(ip) & 0xFFFFFFFF)
    return not any(ip in special for special in _SPECIAL_4)
