"""Classifies IP addresses: this machine, a private network, the internet, or forbidden."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

Address = IPv4Address | IPv6Address


class AddressScope(Enum):
    LOOPBACK = "this machine"
    PRIVATE = "a private network"
    PUBLIC = "the internet"
    FORBIDDEN = "not a server's address"


# RFC 1918, shared address space of carriers and overlay networks (RFC 6598), benchmarking (RFC
# 2544), unique local (RFC 4193). Not `is_private`: its meaning has changed between Python releases,
# and it includes reserved networks.
_PRIVATE = tuple(
    map(
        ip_network,
        (
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "100.64.0.0/10",
            "198.18.0.0/15",
            "fc00::/7",
        ),
    )
)
_FORBIDDEN = tuple(
    map(
        ip_network,
        (
            # "this network"; Linux connects it to this machine, past a check for 127.0.0.0/8
            "0.0.0.0/8",
            "169.254.0.0/16",  # link-local, with most clouds' metadata services
            "192.0.0.0/24",  # protocol assignments, with Oracle's metadata service
            "224.0.0.0/3",  # multicast, reserved, broadcast
            "100.100.100.200/32",  # Alibaba's metadata service
            "168.63.129.16/32",  # Azure's channel to the host
            "::/128",
            "100::/64",  # discard
            "fe80::/9",  # link-local and the former site-local
            "ff00::/8",
            # local NAT64: the position of the IPv4 address depends on the gateway
            "64:ff9b:1::/48",
            "2001::/32",  # Teredo: contains two IPv4 addresses, the second one obfuscated
            "fd00:ec2::/32",  # Amazon's metadata services
            "fd20:ce::254/128",  # Google's
            "fd00:42::42/128",  # Scaleway's
        ),
    )
)


def unmap_ipv4(address: Address) -> Address:
    """An IPv4-mapped address as IPv4; any other address unchanged."""
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def is_ip_address(text: str) -> bool:
    """Whether a host is written as an IP address."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def parse_addresses(texts: Iterable[str]) -> list[Address]:
    """Parse the IP addresses of a look-up: without zones, IPv4-mapped ones as IPv4."""
    return [unmap_ipv4(ip_address(text.partition("%")[0])) for text in texts]


def classify_address(address: Address) -> AddressScope:
    """The scope of an address; an IPv4 address inside an IPv6 address is classified too."""
    address = unmap_ipv4(address)
    if any(address in network for network in _FORBIDDEN if network.version == address.version):
        return AddressScope.FORBIDDEN
    if address.is_loopback:
        return AddressScope.LOOPBACK
    embedded = _extract_embedded_ipv4(address) if isinstance(address, IPv6Address) else None
    if embedded is not None and classify_address(embedded) is not AddressScope.PUBLIC:
        # There is no legitimate reason to write a private address in this form.
        return AddressScope.FORBIDDEN
    if any(address in network for network in _PRIVATE if network.version == address.version):
        return AddressScope.PRIVATE
    return AddressScope.PUBLIC


def _extract_embedded_ipv4(address: IPv6Address) -> Address | None:
    """The embedded IPv4 address of 6to4 (RFC 3056), NAT64 (RFC 6052), IPv4-compatible (RFC 4291) or
    ISATAP (RFC 5214) addresses.
    """
    if address.sixtofour is not None:
        return address.sixtofour
    last = ip_address(int(address) & 0xFFFFFFFF)
    if (
        address in ip_network("64:ff9b::/96")
        or address in ip_network("::/96")
        or (int(address) >> 32) & 0xFDFFFFFF == 0x5EFE
    ):
        return last
    return None
