"""Keep ports mapped on the router, for as long as the node runs."""

from __future__ import annotations

import ipaddress
import logging
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from functools import partial
from random import Random
from typing import Final

import trio

from kernel_proc.metrics import Registry, Sample
from kernel_proc.nat.gateway import GatewayError, LocalPort, NatGateway
from kernel_proc.nat.pmp import PmpGateway
from kernel_proc.nat.upnp import UpnpGateway
from logos_process.logs import fields

log = logging.getLogger(__name__)

LEASE: Final = 600
"""Seconds for which a mapping is requested: short, because nothing removes that of a killed node."""
REFRESH: Final = 60.0
"""Seconds between renewals, which also notice a new external address and a router that has restarted."""
RETRY: Final = 5.0
"""Seconds between renewals at least, however short a lease is granted."""
SEARCH: Final = 300.0
"""Seconds between searches while no router answers."""
FAREWELL: Final = 3.0
"""Seconds that the removal may take at the end."""

Find = Callable[[], Awaitable[NatGateway]]


def finders(kinds: Sequence[str], rng: Random) -> Sequence[Find]:
    """Return how to find a router by what it may speak: `upnp`, `pmp`."""
    return [partial(UpnpGateway.find, rng) if kind == "upnp" else PmpGateway.find for kind in kinds]


class PortMapper:
    """Call `look` when `wanted`, the ports to map, may have changed.

    `find` are tried in this order. `changed(external address, external ports)` is called with every outcome:
    without an address nothing is mapped.
    """

    def __init__(
        self,
        find: Sequence[Find],
        wanted: Callable[[], Set[LocalPort]],
        changed: Callable[[str | None, Mapping[LocalPort, int]], None],
        registry: Registry,
    ) -> None:
        self._find = find
        self._wanted = wanted
        self._changed = changed
        self._gateway: NatGateway | None = None
        self._ip: str | None = None
        self._mapped: dict[LocalPort, tuple[int, float]] = {}
        self._errors = registry.counter("nat_errors")
        self._problem: str | None = None
        self._look = trio.Event()
        registry.add_source(self._samples)

    def look(self) -> None:
        self._look.set()

    def describe(self) -> dict[str, object]:
        """Return who maps, what is mapped, and why not."""
        return {
            "by": self._gateway.kind if self._gateway else None,
            "ip": self._ip,
            "ports": [[port.protocol, port.number, to] for port, (to, _) in sorted(self._mapped.items())],
            "error": self._problem,
        }

    async def run(self) -> None:
        """Map and renew until cancelled, then remove."""
        try:
            while True:
                self._look, pause = trio.Event(), SEARCH
                if self._find and (self._wanted() or self._mapped):
                    try:
                        await self._refresh()
                        pause, self._problem = self._until_renewal(), None
                    except GatewayError as error:
                        self._failed(str(error))
                        pause = self._until_renewal() if self._mapped else SEARCH
                with trio.move_on_after(pause):
                    await self._look.wait()
        finally:
            with trio.move_on_after(FAREWELL, shield=True):
                await self._remove(set(self._mapped))

    async def _refresh(self) -> None:
        """Raise GatewayError."""
        if self._gateway is None or self._problem is not None:
            self._gateway = await self._search()
        gateway = self._gateway
        wanted, ip = self._wanted(), await gateway.external_ip()
        if not _is_public(ip):
            raise GatewayError(f"the router's own external address, {ip or 'none'}, is not a public one")
        await self._remove(set(self._mapped) - wanted)
        refused: GatewayError | None = None
        for port in sorted(wanted):
            before, _ = self._mapped.get(port, (port.number, 0.0))
            try:
                external, lifetime = await gateway.add(port, before, LEASE)
            except GatewayError as error:
                refused = error
                continue
            self._mapped[port] = external, trio.current_time() + lifetime
        self._report(ip)
        if refused is not None:
            raise refused

    def _until_renewal(self) -> float:
        """Half the time that is left at most (RFC 6886 §3.3): a router may grant less than was asked."""
        ends = min((end for _, end in self._mapped.values()), default=math.inf)
        return min(REFRESH, max(RETRY, (ends - trio.current_time()) / 2))

    async def _search(self) -> NatGateway:
        problems: list[str] = []
        for find in self._find:
            try:
                gateway = await find()
            except GatewayError as error:
                problems.append(str(error))
                continue
            log.info("found a router that maps ports", extra=fields(by=gateway.kind))
            return gateway
        raise GatewayError("; ".join(problems))

    def _failed(self, problem: str) -> None:
        """Search again the next time; what is mapped is announced until its lease ends."""
        self._errors.add()
        if problem != self._problem:
            log.info("the router maps no ports, or not all", extra=fields(error=problem))
        self._problem = problem
        self._report(self._ip)

    def _report(self, ip: str | None) -> None:
        now = trio.current_time()
        self._mapped = {port: one for port, one in self._mapped.items() if one[1] > now}
        ports = {port: external for port, (external, _) in self._mapped.items()}
        self._ip = ip if ports else None
        self._changed(self._ip, ports)

    async def _remove(self, ports: Set[LocalPort]) -> None:
        for port in ports:
            external, _ = self._mapped.pop(port)
            if self._gateway is None:
                continue
            try:
                await self._gateway.remove(port, external)
            except GatewayError as error:
                self._errors.add()
                log.info("a mapped port was not removed", extra=fields(port=external, error=str(error)))

    def _samples(self) -> list[Sample]:
        return [("nat_mappings", {}, len(self._mapped))]


def _is_public(ip: str) -> bool:
    try:
        return ipaddress.IPv4Address(ip).is_global
    except ValueError:
        return False
