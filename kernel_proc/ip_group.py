"""IP addresses in canonical form, and the unit of all limits per IP address. Pure."""

from __future__ import annotations

import ipaddress

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


def parse_ip(text: str) -> IpAddress:
    """Parse an address, without its zone; IPv4-mapped IPv6 becomes IPv4. Raise ValueError."""
    ip = ipaddress.ip_address(text.partition("%")[0])
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return mapped or ip


def ip_of(address: str) -> IpAddress | None:
    """Return the IP address in a multiaddr, None if it begins with a name."""
    parts = address.split("/", 3)
    if len(parts) < 3 or parts[1] not in ("ip4", "ip6"):
        return None
    try:
        return ipaddress.ip_address(parts[2])
    except ValueError:
        return None


def ip_group(ip: str) -> str:
    """Return an IPv4 address, or the /64 of an IPv6 address, which one host controls. Raise ValueError for
    anything else."""
    address = parse_ip(ip)
    if address.version == 4:
        return str(address)
    return str(ipaddress.IPv6Network((address, 64), strict=False).network_address)
