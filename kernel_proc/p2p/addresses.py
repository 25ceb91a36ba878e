"""Multiaddrs this host can listen on or dial: /ip4|ip6|dns|dns4|dns6/…/tcp/…[/ws|/wss][/p2p/…].

Uses the same parser as the configuration.
"""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass, replace

from ipc_schema.config.addresses import DialAddress, parse_multiaddr
from kernel_proc.ip_group import parse_ip
from kernel_proc.p2p._libp2p import ID, Multiaddr
from kernel_proc.p2p.api import BadAddress


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A parsed multiaddr."""

    kind: str
    """ip4, ip6, dns, dns4 or dns6."""
    host: str
    port: int
    transport: str = ""
    """"" for plain TCP, "/ws" or "/wss"."""
    peer_id: ID | None = None
    server_name: str | None = None
    """The name for which the certificate must be valid, if it is not the host."""

    def text(self) -> str:
        """The multiaddr without /p2p."""
        return DialAddress(self.kind, self.host, self.port, self.transport, None, self.server_name).place

    @property
    def certified(self) -> str:
        """The name or IP address for which the certificate must be valid."""
        return (self.server_name or self.host).rstrip(".")

    @property
    def family(self) -> socket.AddressFamily:
        """The address family to resolve; AF_UNSPEC for /dns."""
        if self.kind in ("ip4", "dns4"):
            return socket.AF_INET
        return socket.AF_INET6 if self.kind in ("ip6", "dns6") else socket.AF_UNSPEC


def parse(address: str) -> Endpoint:
    """Parse an address to dial or to listen on. Raise BadAddress with the reason."""
    try:
        read = parse_multiaddr(address)
    except ValueError as error:
        raise BadAddress(str(error)) from None
    peer_id = ID.from_base58(read.peer_id) if read.peer_id is not None else None
    return Endpoint(read.kind, read.host, read.port, read.transport, peer_id, read.server_name)


def from_sockaddr(sockaddr: tuple[object, ...], transport: str) -> Endpoint:
    """Return the endpoint of a socket address; IPv4-mapped IPv6 becomes IPv4."""
    ip = parse_ip(str(sockaddr[0]))
    return Endpoint(f"ip{ip.version}", str(ip), int(str(sockaddr[1])), transport)


def reached(dialled: Endpoint, sockaddr: tuple[object, ...]) -> Endpoint:
    """Return the endpoint that dialling reached. With TLS it keeps the name: no certificate is for the IP
    address, which would be of no use later."""
    remote = from_sockaddr(sockaddr, dialled.transport)
    if dialled.transport != "/wss" or dialled.certified == remote.host:
        return remote
    return replace(remote, server_name=dialled.certified)


def to_bytes(address: str) -> bytes:
    """Return the binary form, as used in identify. Raise BadAddress."""
    try:
        return parse_multiaddr(address).to_bytes()
    except ValueError:
        pass  # another transport, spoken only by a proxy in front of us
    try:
        return bytes(Multiaddr(address).to_bytes())
    except Exception as error:  # the library raises a dozen unrelated types for invalid text
        raise BadAddress(f"{address!r} is not a multiaddr: {error}") from None


def from_bytes(data: bytes) -> str | None:
    """Return the text of a binary multiaddr, None if it cannot be parsed (peers may advertise unknown
    transports)."""
    try:
        return str(Multiaddr(data))
    except Exception:  # see to_bytes
        return None


def reachable_forms(endpoint: Endpoint) -> list[str]:
    """Return what to advertise for a bound endpoint: itself or, for a wildcard, the addresses of this
    machine.

    No packet is sent: connecting a UDP socket only makes the OS choose a source address.
    """
    if not ipaddress.ip_address(endpoint.host).is_unspecified:
        return [endpoint.text()]
    ipv6 = endpoint.kind == "ip6"
    probe, loopback = (("2001:db8::1", 9), "::1") if ipv6 else (("192.0.2.1", 9), "127.0.0.1")
    hosts = [loopback]
    with socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET, socket.SOCK_DGRAM) as udp:
        try:
            udp.connect(probe)
            hosts.insert(0, str(udp.getsockname()[0]))
        except OSError:
            pass  # no route: only loopback
    tail = f"/tcp/{endpoint.port}{endpoint.transport}"
    return [f"/{endpoint.kind}/{host}{tail}" for host in dict.fromkeys(hosts)]
