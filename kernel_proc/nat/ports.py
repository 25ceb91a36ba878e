"""Which ports to map. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address

from kernel_proc.nat.gateway import LocalPort


def mappable(tcp: Iterable[str], udp: Iterable[tuple[str, int]]) -> frozenset[LocalPort]:
    """Return the ports of TCP multiaddrs and UDP endpoints that a router may hide: those at private IPv4
    addresses. A wildcard in `udp` stands for the addresses in `tcp`."""
    found: set[LocalPort] = set()
    for address in tcp:
        _, kind, host, _, port, *_ = address.split("/")
        if kind == "ip4" and _is_private(host):
            found.add(LocalPort("tcp", int(port)))
    if found:
        found |= {LocalPort("udp", port) for host, port in udp if host == "0.0.0.0" or _is_private(host)}  # noqa: S104
    return frozenset(found)


def _is_private(host: str) -> bool:
    if ":" in host:
        return False
    ip = IPv4Address(host)
    return not (ip.is_global or ip.is_loopback or ip.is_unspecified)
