"""IP addresses: which ones are the public internet's, and which are somebody's inside.

In: an address as text. Out: the address, or what kind of inside it is. Nothing is refused here.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

__all__ = ["Address", "Network", "inside_of", "is_numeric_name", "parse_address"]

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# Of our own and not `is_global`, whose answers differ between Python's patch releases. From IANA's registries of
# special-purpose addresses.
_INSIDE_V4 = {
    "this network": ("0.0.0.0/8",),
    "private": ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),
    "carrier NAT": ("100.64.0.0/10",),
    "loopback": ("127.0.0.0/8",),
    "link-local": ("169.254.0.0/16",),
    "metadata": ("168.63.129.16/32",),  # Azure's, the one that lies in public space
    "reserved": (
        "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
        "240.0.0.0/4",
    ),
    "multicast": ("224.0.0.0/4",),
}  # fmt: skip

_PUBLIC_V6 = ip_network("2000::/3")
"""All global unicast; loopback, link-local, unique-local, multicast, IPv4-mapped and NAT64 lie elsewhere."""

_INSIDE_V6 = {
    "reserved": ("2001::/23", "2001:db8::/32", "3fff::/20"),  # Teredo, which carries an IPv4 address, is in the first
    "6to4": ("2002::/16",),
}

_NETWORKS = [
    (kind, ip_network(each)) for table in (_INSIDE_V4, _INSIDE_V6) for kind, some in table.items() for each in some
]

_NUMERIC_LABEL = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*")


def parse_address(host: str) -> Address | None:
    """The address that `host` spells canonically (IPv6 without brackets); None for a name or any other spelling."""
    try:
        return ip_address(host)
    except ValueError:
        return None


def is_numeric_name(host: str) -> bool:
    """Whether a resolver may read `host` as an IPv4 address: decimal, octal, hexadecimal, with fewer dots."""
    return _NUMERIC_LABEL.fullmatch(host.rstrip(".").rpartition(".")[2]) is not None


def inside_of(address: Address) -> str | None:
    """What `address` is, if it is not one of the public internet; else None."""
    for kind, network in _NETWORKS:
        if address in network:
            return kind
    if isinstance(address, IPv6Address) and (address not in _PUBLIC_V6 or address.scope_id):
        return "not global unicast"
    return None
