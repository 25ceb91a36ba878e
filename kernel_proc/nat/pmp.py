"""A router that speaks NAT-PMP (RFC 6886)."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path
from typing import Final, Self

import trio

from kernel_proc.nat.gateway import GatewayError, LocalPort
from kernel_proc.nat.pmp_codec import (
    PORT,
    Granted,
    PmpError,
    address_request,
    default_gateway,
    map_request,
    read_reply,
)

_ROUTES: Final = Path("/proc/net/route")
_FIRST_WAIT: Final = 0.25
_TRIES: Final = 5
"""§3.1: 250 ms, then twice as long each time. Nine tries would be two minutes; a router in the local
network that has not answered after five, 8 s, does not speak it."""


class PmpGateway:
    """Made by `find`."""

    kind = "pmp"

    def __init__(self, router: IPv4Address) -> None:
        self._router = router

    @classmethod
    async def find(cls) -> Self:
        """Return the default gateway if it speaks NAT-PMP. Raise GatewayError."""
        try:
            router = default_gateway(_ROUTES.read_text())
        except (OSError, ValueError) as error:
            raise GatewayError(f"NAT-PMP: {_ROUTES}: {error}") from None
        if router is None:
            raise GatewayError("NAT-PMP: there is no default gateway")
        gateway = cls(router)
        await gateway.external_ip()
        return gateway

    async def external_ip(self) -> str:
        """Return the router's external address. Raise GatewayError."""
        return str(await self._ask(address_request()))

    async def add(self, port: LocalPort, external: int, lease: int) -> tuple[int, float]:
        """Map a port. Raise GatewayError."""
        granted = await self._ask(map_request(port.protocol, port.number, external, lease))
        assert isinstance(granted, Granted)
        if not granted.external or not granted.lifetime:
            raise GatewayError("NAT-PMP: the router granted nothing")
        return granted.external, float(granted.lifetime)

    async def remove(self, port: LocalPort, external: int) -> None:  # noqa: ARG002 - NatGateway
        """Remove the mapping of a port. Raise GatewayError."""
        await self._ask(map_request(port.protocol, port.number, 0, 0))

    async def _ask(self, request: bytes) -> IPv4Address | Granted:
        problem = "no reply"
        # A socket for each request: late replies to an earlier one do not reach it.
        with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as udp:
            try:
                await udp.connect((str(self._router), PORT))  # replies of others are not received (§3.1)
                for number in range(_TRIES):
                    await udp.send(request)
                    with trio.move_on_after(_FIRST_WAIT * 2**number):
                        return read_reply(request, await udp.recv(1100))
            except (OSError, PmpError) as error:
                problem = str(error)
        raise GatewayError(f"NAT-PMP: {self._router}: {problem}")
