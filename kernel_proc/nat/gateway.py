"""The interface of a router that maps ports."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

IpProtocol = Literal["tcp", "udp"]


class GatewayError(Exception):
    """There is no such router, or it refused or did not answer in time."""


class LocalPort(NamedTuple):
    """A port of this host."""

    protocol: IpProtocol
    number: int


class NatGateway(Protocol):
    """A router. All methods raise GatewayError, and return within seconds."""

    kind: str
    """As in the option `nat`."""

    async def external_ip(self) -> str: ...

    async def add(self, port: LocalPort, external: int, lease: int) -> tuple[int, float]:
        """Map a port, or renew its mapping. `external` is a wish. Return the external port and for how many
        seconds it is granted."""

    async def remove(self, port: LocalPort, external: int) -> None: ...
