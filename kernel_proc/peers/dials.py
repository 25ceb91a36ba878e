"""The dials that the peer manager's plan asks for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final

from kernel_proc.metrics import Registry
from kernel_proc.p2p.api import BadAddress, Host, P2pError, PeerConnection, PeerIdText
from kernel_proc.peers.known import KnownPeer, group_of_address
from kernel_proc.peers.needs import Needs
from kernel_proc.peers.online import OnlineMonitor
from kernel_proc.peers.plan import SERVICES
from kernel_proc.peers.store import HIGHEST_DELAY, PeerStore
from logos_process.logs import fields

log = logging.getLogger(__name__)

DIAL_SECONDS: Final = 10.0
FURTHER_SECONDS: Final = 5.0
"""For each further address of the same peer."""
MAX_TRIED: Final = 4
"""Maximum addresses of one peer tried per dial."""
URGENT_DELAY: Final = 8.0
"""Maximum redial delay of a peer that a service depends on: with jitter still below 10 s."""
URGENT_FOR: Final = 3600.0


class PeerDials:
    """Dial known peers. `connected` are the live connections; `per_group` limits them per address group."""

    def __init__(
        self,
        host: Host,
        store: PeerStore,
        needs: Needs,
        monitor: OnlineMonitor,
        connected: Mapping[PeerIdText, PeerConnection],
        now: Callable[[], float],
        per_group: int,
        registry: Registry,
    ) -> None:
        self.under_way: dict[PeerIdText, KnownPeer] = {}
        self._host = host
        self._store = store
        self._needs = needs
        self._monitor = monitor
        self._connected = connected
        self._now = now
        self._per_group = per_group
        self._registry = registry
        self._succeeded = registry.counter("peers_dials", outcome="successful")
        self._failed = registry.counter("peers_dials", outcome="failed")

    async def dial(self, peer: KnownPeer) -> None:
        """Dial a peer's addresses one after another until one answers, and record the result."""
        peer_id, why = peer.peer_id, "none of its addresses is dialable"
        try:
            free = [address for address in peer.addresses[:MAX_TRIED] if not self._is_full(address, peer)]
            if not free:
                return  # the address group filled up since the plan was made
            for number, address in enumerate(free):
                try:
                    await self._host.connect(address, deadline=FURTHER_SECONDS if number else DIAL_SECONDS)
                except BadAddress as error:
                    log.debug("undialable address", extra=fields(address=address, reason=str(error)))
                except P2pError as error:
                    why = str(error)
                    log.debug("peer unreachable", extra=fields(address=address, reason=why))
                else:
                    self._succeeded.add()
                    self._registry.counter("node_conns_initiated", source=str(peer.origin)).add()
                    self._store.succeeded(peer_id, self._now(), address)
                    return
            self._failed.add()
            now = self._now()
            online = self._monitor.online(now, len(self._connected))
            longest = URGENT_DELAY if self._is_urgent(peer) else HIGHEST_DELAY
            self._store.failed(peer_id, now, online=online, why=why, longest=longest)
            if online:
                self._monitor.failure(now, peer_id)
        finally:
            self.under_way.pop(peer_id, None)

    def _is_urgent(self, peer: KnownPeer) -> bool:
        """Return whether the peer offers a wanted service that no connected peer has, and was reached
        recently: a store that restarts should be back as soon as possible."""
        if self._now() - peer.last_success > URGENT_FOR:
            return False
        identities = (self._host.identity(connected) for connected in self._connected)
        there = {one for identity in identities if identity is not None for one in identity.protocols}
        wanted = {SERVICES[name].protocol for name in self._needs.wanted().services}
        return not wanted.isdisjoint(set(peer.protocols) - there)

    def _is_full(self, address: str, peer: KnownPeer) -> bool:
        """Return whether an address group is at its limit, counting dials of other peers."""
        limit, group = self._per_group, group_of_address(address)
        there = sum(group_of_address(one.address) == group for one in self._connected.values())
        there += sum(one.group == group for one in self.under_way.values() if one is not peer)
        return 0 < limit <= there
