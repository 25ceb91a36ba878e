"""Multiaddrs that this host can listen on or dial: /ip4|ip6|dns|dns4|dns6/…/tcp/…[/ws][/p2p/…]."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass

from kernel_proc.p2p._libp2p import ID, Multiaddr
from kernel_proc.p2p.api import BadAddress

_HOSTS = ("ip4", "ip6", "dns", "dns4", "dns6")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A parsed address."""

    kind: str
    """ip4, ip6, dns, dns4 or dns6."""
    host: str
    port: int
    websocket: bool
    peer_id: ID | None

    def text(self) -> str:
        """The multiaddr without /p2p."""
        return f"/{self.kind}/{self.host}/tcp/{self.port}" + ("/ws" if self.websocket else "")

    @property
    def family(self) -> socket.AddressFamily:
        """The address family to resolve to; AF_UNSPEC for /dns."""
        if self.kind in ("ip4", "dns4"):
            return socket.AF_INET
        return socket.AF_INET6 if self.kind in ("ip6", "dns6") else socket.AF_UNSPEC


def parse(address: str) -> Endpoint:
    """An address to dial or to listen on. Raises BadAddress with the reason."""
    try:
        parts = [(protocol.name, value) for protocol, value in Multiaddr(address).items()]
    except Exception as error:  # the library raises a dozen unrelated types for text it cannot parse
        raise BadAddress(f"{address!r} is not a multiaddr: {error}") from None
    names = [name for name, _ in parts]
    if len(parts) < 2 or names[0] not in _HOSTS or names[1] != "tcp":
        raise BadAddress(f"{address} is not a TCP or WebSocket address")
    rest = parts[2:]
    websocket = bool(rest) and rest[0][0] == "ws"
    if websocket:
        rest = rest[1:]
    peer_id: ID | None = None
    if rest and rest[0][0] == "p2p":
        peer_id = ID.from_base58(str(rest[0][1]))
        rest = rest[1:]
    if rest:
        raise BadAddress(f"{address}: /{rest[0][0]} is not supported by this host")
    return Endpoint(names[0], str(parts[0][1]), int(str(parts[1][1])), websocket, peer_id)


def from_sockaddr(sockaddr: tuple[object, ...], *, websocket: bool) -> Endpoint:
    """The endpoint of a bound or connected socket; an IPv4 address mapped into IPv6 is shown as IPv4."""
    ip = ipaddress.ip_address(str(sockaddr[0]).partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return Endpoint(f"ip{ip.version}", str(ip), int(str(sockaddr[1])), websocket, None)


def to_bytes(address: str) -> bytes:
    """The binary form, as identify carries it."""
    return bytes(Multiaddr(address).to_bytes())


def from_bytes(data: bytes) -> str | None:
    """The text of a binary multiaddr, None if it cannot be read (peers advertise what we do not know)."""
    try:
        return str(Multiaddr(data))
    except Exception:  # see parse
        return None


def ip_group(ip: str) -> str:
    """What counts as one IP for caps: an IPv4 address, or the /64 that one IPv6 host commands."""
    address = ipaddress.ip_address(ip)
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((address, 64), strict=False).network_address)
    return ip


def reachable_forms(endpoint: Endpoint) -> list[str]:
    """What to advertise for a bound endpoint: itself, or for a wildcard the addresses of this machine.

    No packet is sent: connecting a UDP socket only makes the kernel choose a source address.
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
            pass  # no route out: loopback is all there is
    tail = f"/tcp/{endpoint.port}" + ("/ws" if endpoint.websocket else "")
    return [f"/{endpoint.kind}/{host}{tail}" for host in dict.fromkeys(hosts)]
