"""Messages of NAT-PMP (RFC 6886). Pure."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from kernel_proc.nat.gateway import IpProtocol

PORT: Final = 5351
_VERSION: Final = 0
_ADDRESS: Final = 0
_MAP: Final[dict[IpProtocol, int]] = {"udp": 1, "tcp": 2}
_REPLY: Final = 128
# RFC 6886 §3.5
_RESULTS: Final = {
    1: "unsupported version",
    2: "not authorized: port mapping is turned off",
    3: "network failure: the router has no external address yet",
    4: "out of resources",
    5: "unsupported opcode",
}
_ROUTE_IS_UP_BY_GATEWAY: Final = 0x1 | 0x2
"""RTF_UP and RTF_GATEWAY of route(8)."""


class PmpError(ValueError):
    """The router refused, or its bytes are not the reply to the request."""


@dataclass(frozen=True, slots=True)
class Granted:
    """A mapping; a lifetime of 0 says that it was removed."""

    internal: int
    external: int
    lifetime: int


def address_request() -> bytes:
    """Encode a request for the external address (§3.2)."""
    return bytes((_VERSION, _ADDRESS))


def map_request(protocol: IpProtocol, internal: int, external: int, lifetime: int) -> bytes:
    """Encode a request for a mapping (§3.3); lifetime 0 removes it (§3.4, where `external` must be 0)."""
    return struct.pack(
        "!BBHHHI", _VERSION, _MAP[protocol], 0, internal, external if lifetime else 0, lifetime
    )


def read_reply(request: bytes, reply: bytes) -> IPv4Address | Granted:
    """Read the reply to `request`. Raise PmpError."""
    if len(reply) < 4:
        raise PmpError(f"a reply of {len(reply)} bytes")
    version, opcode, result = struct.unpack_from("!BBH", reply)
    if version != _VERSION:
        raise PmpError(f"a reply of version {version}")  # a PCP server answers so with its own (RFC 6887 §9)
    if opcode != request[1] + _REPLY:
        raise PmpError(f"a reply to opcode {opcode - _REPLY}, not {request[1]}")
    if result:
        raise PmpError(_RESULTS.get(result, f"result {result}"))
    size = 12 if request[1] == _ADDRESS else 16
    if len(reply) < size:
        raise PmpError(f"a reply of {len(reply)} bytes, not {size}")
    if request[1] == _ADDRESS:
        return IPv4Address(reply[8:12])
    granted = Granted(*struct.unpack_from("!HHI", reply, 8))
    if granted.internal != int.from_bytes(request[4:6], "big"):
        raise PmpError(f"a reply about port {granted.internal}")
    return granted


def default_gateway(table: str) -> IPv4Address | None:
    """Return the default gateway from Linux's table of routes (/proc/net/route), None if there is none."""
    found: list[tuple[int, IPv4Address]] = []
    for line in table.splitlines()[1:]:
        columns = line.split()
        # Iface, Destination, Gateway, Flags, RefCnt, Use, Metric, Mask; addresses as little-endian hex
        if len(columns) < 8 or columns[1] != "00000000":
            continue
        flags = int(columns[3], 16)
        if flags & _ROUTE_IS_UP_BY_GATEWAY == _ROUTE_IS_UP_BY_GATEWAY:
            found.append((int(columns[6]), IPv4Address(bytes.fromhex(columns[2])[::-1])))
    return min(found)[1] if found else None
