"""A router that speaks UPnP (Internet Gateway Device), by way of miniupnpc.

The library blocks, so it runs in a thread: one at a time, and one that hangs is left behind, so that neither
the event loop nor the end of the node waits for a router.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, Final, Self, TypeVar

import trio

from kernel_proc.nat.gateway import GatewayError, LocalPort

T = TypeVar("T")

_DISCOVERY_MS: Final = 2000
"""How long routers may take to answer the multicast search (UPnP Device Architecture §1.3.3)."""
_TIMEOUT: Final = 10.0
_DESCRIPTION: Final = "logos-mapi"
_TRIES: Final = 4
_ONE_THREAD: Final = trio.CapacityLimiter(1)
# Texts of miniupnpc, which raises nothing but Exception: errors 718 and 725 of WANIPConnection:2 §2.5.16.
_CONFLICT: Final = "ConflictInMappingEntry"
_ONLY_PERMANENT: Final = "OnlyPermanentLeasesSupported"


async def _in_thread(work: Callable[[], T]) -> T:
    """Raise GatewayError."""
    with trio.move_on_after(_TIMEOUT):
        try:
            return await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=_ONE_THREAD)
        except Exception as error:  # the library has no type of its own
            raise GatewayError(f"UPnP: {error}") from None
    raise GatewayError(f"UPnP: no reply within {_TIMEOUT:g} s")


def _search() -> Any:
    import miniupnpc  # a C library that most nodes never need

    igd = miniupnpc.UPnP()
    igd.discoverdelay = _DISCOVERY_MS
    igd.discover()
    igd.selectigd()
    return igd


class UpnpGateway:
    """Made by `find`."""

    kind = "upnp"

    def __init__(self, igd: Any, rng: Random) -> None:
        self._igd = igd
        self._rng = rng

    @classmethod
    async def find(cls, rng: Random) -> Self:
        """Search the local network. Raise GatewayError."""
        return cls(await _in_thread(_search), rng)

    async def external_ip(self) -> str:
        """Return the router's external address. Raise GatewayError."""
        return str(await _in_thread(self._igd.externalipaddress))

    async def add(self, port: LocalPort, external: int, lease: int) -> tuple[int, float]:
        """Map a port; to another external one if that is taken. Raise GatewayError."""
        for _ in range(_TRIES):
            try:
                return external, await self._add(port, external, lease)
            except GatewayError as error:
                if _CONFLICT not in str(error):
                    raise
                external = self._rng.randint(1024, 65535)
        raise GatewayError(f"UPnP: {_TRIES} external ports for {port.number} were taken")

    async def _add(self, port: LocalPort, external: int, lease: int) -> float:
        def add(seconds: int) -> None:
            arguments = (external, port.protocol.upper(), self._igd.lanaddr, port.number)
            self._igd.addportmapping(*arguments, _DESCRIPTION, "", seconds)

        try:
            await _in_thread(lambda: add(lease))
        except GatewayError as error:
            if _ONLY_PERMANENT not in str(error):
                raise
            await _in_thread(lambda: add(0))
        return float(lease)

    async def remove(self, port: LocalPort, external: int) -> None:
        """Remove a mapping. Raise GatewayError."""
        await _in_thread(lambda: self._igd.deleteportmapping(external, port.protocol.upper()))
