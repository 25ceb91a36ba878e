"""UDP endpoints, and rules for the IP addresses in them."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Final, NamedTuple

from kernel_proc.discovery.enr import Enr
from kernel_proc.ip_group import parse_ip

_parse: Final = lru_cache(maxsize=4096)(parse_ip)


class UdpEndpoint(NamedTuple):
    """An IP address in canonical text form (never IPv4-mapped IPv6) and a UDP port."""

    host: str
    port: int

    @classmethod
    def of(cls, host: str, port: int) -> UdpEndpoint:
        """Create from a socket address. Raise ValueError if `host` is not an IP address."""
        return cls(str(_parse(host)), port)

    @property
    def packed(self) -> bytes:
        """The address as 4 or 16 bytes."""
        return _parse(self.host).packed

    @property
    def version(self) -> int:
        """The IP version, 4 or 6."""
        return 6 if ":" in self.host else 4


class NodeContact(NamedTuple):
    """A node at an endpoint. Sessions belong to both: a node that moves has to authenticate again."""

    node_id: bytes
    endpoint: UdpEndpoint


@lru_cache(maxsize=4096)
def contact_of(record: Enr, versions: frozenset[int]) -> NodeContact | None:
    """Return how to reach a record's node with one of these IP versions, IPv4 first; None if unreachable."""
    for version, ip, port in ((4, record.ip4, record.udp4), (6, record.ip6, record.udp6)):
        if version in versions and ip is not None and port is not None:
            return NodeContact(record.node_id, UdpEndpoint.of(ip, port))
    return None


def is_loopback(host: str) -> bool:
    """Return whether the address is a loopback address."""
    return _parse(host).is_loopback


@lru_cache(maxsize=4096)
def group_of(host: str) -> str:
    """Return the group of addresses that counts as one owner for the limits of the table.

    On the public Internet, an owner of one address usually controls its neighbours: a /24 or /64 is one
    group. In private networks each address is its own group.
    """
    ip = _parse(host)
    if ip.is_private:
        return str(ip)
    return str(ipaddress.ip_network((ip, 24 if ip.version == 4 else 64), strict=False))


@lru_cache(maxsize=4096)
def may_relay(host: str, peer: str) -> bool:
    """Return whether a record with this address may be accepted from, or sent to, a node at `peer`.

    Addresses of a private network or of one host are only meaningful inside it. Accepting them from outside
    would let an attacker direct us at our own neighbours (discv5-wire, NODES).
    """
    ip, source = _parse(host), _parse(peer)
    if ip.is_loopback:  # check first: Python considers ::1 reserved as well
        return source.is_loopback
    if ip.is_unspecified or ip.is_multicast or ip.is_reserved:
        return False
    if ip.is_private or ip.is_link_local:
        return source.is_private or source.is_loopback
    return True
