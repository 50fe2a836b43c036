"""Webhooks may only connect to public addresses."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.core.addresses import is_public

# IANA IPv4 and IPv6 Special-Purpose Address Registries, each row with its RFC and whether it is
# globally reachable (None: not applicable). As of 2025-10:
# iana.org/assignments/iana-ipv4-special-registry and .../iana-ipv6-special-registry
REGISTRY: list[tuple[str, str, bool | None]] = [
    ("0.0.0.0/8", "RFC 791", False),
    ("0.0.0.0/32", "RFC 1122", False),
    ("10.0.0.0/8", "RFC 1918", False),
    ("100.64.0.0/10", "RFC 6598", False),
    ("127.0.0.0/8", "RFC 1122", False),
    ("169.254.0.0/16", "RFC 3927", False),
    ("172.16.0.0/12", "RFC 1918", False),
    ("192.0.0.0/24", "RFC 6890", False),
    ("192.0.0.0/29", "RFC 7335", False),
    ("192.0.0.8/32", "RFC 7600", False),
    ("192.0.0.9/32", "RFC 7723", True),
    ("192.0.0.10/32", "RFC 8155", True),
    ("192.0.0.170/32", "RFC 8880", False),
    ("192.0.0.171/32", "RFC 8880", False),
    ("192.0.2.0/24", "RFC 5737", False),
    ("192.31.196.0/24", "RFC 7535", True),
    ("192.52.193.0/24", "RFC 7450", True),
    ("192.88.99.0/24", "RFC 7526", None),
    ("192.88.99.2/32", "RFC 6751", False),
    ("192.168.0.0/16", "RFC 1918", False),
    ("192.175.48.0/24", "RFC 7534", True),
    ("198.18.0.0/15", "RFC 2544", False),
    ("198.51.100.0/24", "RFC 5737", False),
    ("203.0.113.0/24", "RFC 5737", False),
    ("240.0.0.0/4", "RFC 1112", False),
    ("255.255.255.255/32", "RFC 8190", False),
    ("::1/128", "RFC 4291", False),
    ("::/128", "RFC 4291", False),
    ("64:ff9b:1::/48", "RFC 8215", False),
    ("100::/64", "RFC 6666", False),
    ("100:0:0:1::/64", "RFC 9780", False),
    ("2001::/23", "RFC 2928", False),
    ("2001::/32", "RFC 4380, Teredo", None),
    ("2001:1::1/128", "RFC 7723", True),
    ("2001:1::2/128", "RFC 8155", True),
    ("2001:1::3/128", "RFC 9665", True),
    ("2001:2::/48", "RFC 5180", False),
    ("2001:3::/32", "RFC 7450", True),
    ("2001:4:112::/48", "RFC 7535", True),
    ("2001:10::/28", "RFC 4843", None),
    ("2001:20::/28", "RFC 7343", True),
    ("2001:30::/28", "RFC 9374", True),
    ("2001:db8::/32", "RFC 3849", False),
    ("2002::/16", "RFC 3056, 6to4", None),
    ("2620:4f:8000::/48", "RFC 7534", True),
    ("3fff::/20", "RFC 9637", False),
    ("5f00::/16", "RFC 9602", False),
    ("fc00::/7", "RFC 4193", False),
    ("fe80::/10", "RFC 4291", False),
]
# The two rows that can embed any IPv4 address are tested with each of those.
EMBEDDING = {"::ffff:0:0/96": "RFC 4291", "64:ff9b::/96": "RFC 6052, globally reachable"}
# From other registries, or deprecated: IPv4-compatible, IPv4-translated, site-local, multicast.
BESIDE = ["::/96", "::ffff:0:0:0/96", "fec0::/10", "ff00::/8", "224.0.0.0/4"]
ROWS = [row[0] for row in REGISTRY] + BESIDE
PUBLIC = ["93.184.216.34", "1.1.1.1", "192.0.1.1", "2606:2800:220:1::1", "2001:200::1", "2a00::1"]


def addresses(network: str) -> list[str]:
    """Return the first and the last address, and one in between."""
    net = ip_network(network)
    return [str(net[0]), str(net[-1]), str(net[net.num_addresses // 2])]


@pytest.mark.parametrize("network", ROWS)
def test_an_address_with_a_special_purpose_is_posted_to(network: str) -> None:
    """Some are globally reachable: as anycast, whose nearest instance may be our own router."""
    assert [address for address in addresses(network) if is_public(address)] == []


@pytest.mark.parametrize("prefix", ["::ffff:", "64:ff9b::"])
@pytest.mark.parametrize("network", [row for row in ROWS if ":" not in row])
def test_a_private_address_is_embedded_in_another(prefix: str, network: str) -> None:
    assert [one for one in addresses(network) if is_public(prefix + one)] == []


ISATAP = ["0:5efe", "100:5efe", "200:5efe", "300:5efe"]
"""RFC 5214 §6.1: the bits u and g of the interface identifier may be set or not."""


@pytest.mark.parametrize("identifier", ISATAP)
@pytest.mark.parametrize("within", ["127.0.0.1", "169.254.169.254", "10.0.0.1", "93.184.216.34"])
def test_a_tunnel_within_a_site_embeds_an_address(identifier: str, within: str) -> None:
    """A router of a site with ISATAP forwards to any IPv4 address (CWE-918)."""
    assert not is_public(f"2a00:1450:4001:81b:{identifier}:{within}")


@pytest.mark.parametrize("within", ["127.0.0.1", "169.254.169.254", "93.184.216.34"])
def test_no_other_form_at_a_known_position_embeds_an_address(within: str) -> None:
    """Teredo (RFC 4380 §4), 6to4, IPv4-compatible, IPv4-translated, NAT64 for local use."""
    number = int(IPv4Address(within))
    high, low = f"{number >> 16:x}", f"{number & 0xFFFF:x}"
    obscured = number ^ 0xFFFFFFFF  # as Teredo writes the client's address
    assert not is_public(f"2001:0:4136:e378:8000:63bf:{obscured >> 16:x}:{obscured & 0xFFFF:x}")
    assert not is_public(f"2001:0:{high}:{low}::1"), "Teredo's server"
    assert not is_public(f"2002:{high}:{low}::1")
    assert not is_public(f"::{within}")
    assert not is_public(f"::ffff:0:{within}")
    assert not is_public(f"64:ff9b:1::{within}")


@given(st.ip_addresses(v=6, network="2000::/3"))
def test_only_an_isatap_identifier_makes_a_unicast_address_private(
    address: IPv6Address,
) -> None:
    prefix = int(address) >> 64 << 64
    if is_public(str(IPv6Address(prefix))):
        plain = IPv6Address(prefix | 0x0000_5EFF_0000_0000 | int(address) & 0xFFFFFFFF)
        tunnel = IPv6Address(prefix | 0x0000_5EFE_0000_0000 | int(address) & 0xFFFFFFFF)
        assert (is_public(str(plain)), is_public(str(tunnel))) == (True, False)


@pytest.mark.parametrize("address", [*PUBLIC, "::ffff:93.184.216.34", "64:ff9b::93.184.216.34"])
def test_public_addresses_are_allowed(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    ["64:ff9b:1::7f00:1", "::7f00:1", "fec0::1", "192.0.0.8", "2002:7f00:1::", "fe80::1%eth0"],
)
def test_addresses_that_python_wrongly_considers_public_are_refused(address: str) -> None:
    """`is_global` of Python 3.11.7 returns true for the first four."""
    assert not is_public(address)


@given(st.ip_addresses(v=6).map(str))
def test_no_address_beyond_global_unicast_is_public(address: str) -> None:
    ip = ip_network(address)
    assert isinstance(ip, IPv6Network)
    embeds = [IPv6Network(network) for network in EMBEDDING]
    if is_public(address):
        assert any(ip.subnet_of(net) for net in [IPv6Network("2000::/3"), *embeds])


@given(st.ip_addresses(v=4).map(str))
def test_an_address_is_public_unless_it_is_listed(address: str) -> None:
    ip = IPv4Network(address)
    rows = [IPv4Network(row) for row in ROWS if ":" not in row]
    assert is_public(address) is not any(ip.subnet_of(row) for row in rows)
