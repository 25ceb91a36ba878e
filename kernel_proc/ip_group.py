"""The unit of all limits per IP address. Pure."""

from __future__ import annotations

import ipaddress


def ip_group(ip: str) -> str:
    """Return an IPv4 address, or the /64 of an IPv6 address, which one host controls. Raise ValueError for
    anything else."""
    address = ipaddress.ip_address(ip.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.IPv6Network((address, 64), strict=False).network_address)
    return str(address)
