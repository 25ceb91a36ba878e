"""The peer manager: maintain as many good connections as the node wants, from the peers it knows.

`plan` is the policy, `store` the memory; this module adds the clock and the dials. The manager sleeps until
an event may change the plan. The host's keepalive detects dead connections; the manager adds what no single
connection shows: that the machine was suspended, or that we are offline and no peer is to blame.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Iterable, Sequence, Set
from random import Random
from typing import Final

import trio

from kernel_proc.ip_group import ip_of
from kernel_proc.metrics import Registry, Sample
from kernel_proc.p2p.api import (
    Direction,
    EndCause,
    Host,
    PeerConnection,
    PeerIdentity,
    PeerIdText,
)
from kernel_proc.peers.clock import PeerClock
from kernel_proc.peers.dials import PeerDials
from kernel_proc.peers.known import UNSIGNED, KnownPeer, PeerFacts, PeerOrigin, group_of_address
from kernel_proc.peers.needs import Needs
from kernel_proc.peers.online import OnlineMonitor, SleepDetector
from kernel_proc.peers.plan import SERVICES, Connected, plan
from kernel_proc.peers.settings import ManagerSettings
from kernel_proc.peers.store import USELESS_DELAY, PeerStore
from kernel_proc.peers.store_keeper import StoreKeeper
from kernel_proc.relay.params import RELAY_PROTOCOL
from logos_process.host_clock import boot_ns
from logos_process.logs import fields

log = logging.getLogger(__name__)

AT_ONCE: Final = 10
"""Maximum concurrent dials."""
MAX_SKIPPED: Final = 300
"""Characters of skipped addresses per line of the log."""
PAUSE: Final = 0.25
"""Minimum seconds between evaluations of the plan, to coalesce bursts of events."""
PAUSE_OFFLINE: Final = 2.0
"""The same while offline, when dials often fail immediately."""
SHORT_PERIOD: Final = 2.0
LONG_PERIOD: Final = 15.0
DISCONNECTED_SECONDS: Final = 600.0
"""Seconds during which a peer that we disconnected, by plan or by request, is not redialled."""
SLEEP_PERIOD: Final = 5.0
WAKU: Final = "/vac/waku/"


def _has_websocket(address: str) -> bool:
    return not {"ws", "wss"}.isdisjoint(address.split("/"))


class PeerManager:
    """Maintain connections. Add it to the host as a listener, then call `run`."""

    def __init__(
        self,
        host: Host,
        store: PeerStore,
        settings: ManagerSettings,
        needs: Needs,
        registry: Registry,
        rng: Random,
        *,
        found_origin: Callable[[PeerIdText, str], None] = lambda _peer, _origin: None,
        clock: PeerClock | None = None,
    ) -> None:
        """`found_origin` is called with the origin of a peer that connects."""
        self._host = host
        self.store = store
        self._settings = settings
        self._configured_peers: dict[str, PeerIdText] = {}
        """Peers found at the operator's addresses, by address."""
        self._needs = needs
        self._rng = rng
        self._found_origin = found_origin
        self.now = clock or PeerClock()
        """The clock of the store: seconds since the Unix epoch, immune to steps of the wall clock."""
        self._connected: dict[PeerIdText, PeerConnection] = {}
        self._monitor = OnlineMonitor(self.now())
        self._dials = PeerDials(
            host, store, needs, self._monitor, self._connected, self.now, settings.per_group, registry
        )
        self._evicting: set[PeerIdText] = set()
        self._wake = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._keeper = StoreKeeper(store, settings.path, self.now, registry)
        self.short = True
        """Something wanted is missing: discovery should look for more peers."""
        self.short_shards: Set[int] = frozenset()
        self.short_services: Set[str] = frozenset()
        self._evicted = registry.counter("peers_evicted")
        registry.add_source(self._samples)

    @property
    def online(self) -> bool:
        """Whether there was a sign of life from the network lately."""
        return self._monitor.online(self.now(), len(self._connected))

    def _may_be_online(self) -> bool:
        return self._monitor.may_be_online(self.now(), len(self._connected))

    def sign_of_life(self) -> None:
        """Record that the network responded in some way."""
        self._monitor.sign(self.now())

    # --- learning ---

    def learn(
        self,
        peer_id: PeerIdText,
        addresses: Iterable[str],
        origin: str,
        facts: PeerFacts = UNSIGNED,
        *,
        source: str = "",
    ) -> bool:
        """Record a peer. Return False if it is useless to us or the store is full.

        `source` identifies who reported it, if the origin does not.
        """
        own = f"/p2p/{peer_id}"
        chosen, skipped = [], []
        for address in addresses:
            if self._may_dial(address):
                chosen.append(address if address.endswith(own) else address + own)
            else:
                skipped.append(address)  # of another transport, for instance: the peer's others may do
        if skipped:
            text = ",".join(skipped)[:MAX_SKIPPED]
            log.debug("addresses skipped", extra=fields(peer=peer_id, addresses=text))
        if not chosen or facts.cluster not in (None, self._needs.wanted().cluster):
            return False
        chosen.sort(key=_has_websocket)  # TCP needs less: fewer round trips, no second encryption
        before = self.store.changes
        learned = self.store.learn(peer_id, chosen, origin, self.now(), facts, source=source)
        if self.store.changes != before:
            self.wake()
        return learned

    def _may_dial(self, address: str) -> bool:
        """Return whether an address may be dialled.

        Loopback is refused unless we listen on loopback only: other peers must not direct us to services on
        this machine.
        """
        ip, loopback = ip_of(address), self._settings.loopback
        if ip and (ip.is_unspecified or ip.is_multicast or (ip.is_loopback and not loopback)):
            return False
        return self._settings.usable(address)

    def wake(self) -> None:
        """Re-evaluate the plan soon: something it depends on has changed."""
        self._wake.set()

    def postpone(self, peer_id: PeerIdText, why: str = "disconnected by request") -> None:
        """Do not redial this peer for a while."""
        self.store.postpone(peer_id, self.now(), DISCONNECTED_SECONDS, why)

    def is_configured(self, peer_id: PeerIdText) -> bool:
        return peer_id in self._settings.protected or peer_id in self._configured_peers.values()

    def operator_peer_found(self, peer_id: PeerIdText, address: str) -> None:
        """Record that an address configured by the operator, possibly without peer id, leads to this peer."""
        self._configured_peers[address] = peer_id
        self.store.set_origin(peer_id, PeerOrigin.STATIC)
        self._found_origin(peer_id, PeerOrigin.STATIC)

    # --- host events ---

    def peer_connected(self, connection: PeerConnection) -> None:
        """Record a connection. An outbound one proves the peer's address."""
        peer_id = connection.peer_id
        self._connected[peer_id] = connection
        if connection.direction is Direction.OUTBOUND:
            address = f"{connection.address}/p2p/{peer_id}"
            if self.store.get(peer_id) is None:
                origin = PeerOrigin.STATIC if self.is_configured(peer_id) else PeerOrigin.API
                self.learn(peer_id, (address,), origin)
            self.store.succeeded(peer_id, self.now(), address)
        if (known := self.store.get(peer_id)) is not None:
            self._found_origin(peer_id, known.origin)
        self.wake()

    def peer_identified(self, identity: PeerIdentity) -> None:
        """Record the peer's protocols and, for an inbound one, those listen addresses that match where we
        see it."""
        peer_id = identity.peer_id
        connection = self._connected.get(peer_id)
        if connection is None:
            return
        if (
            connection.direction is Direction.INBOUND
            and not connection.is_relayed
            and any(WAKU in one for one in identity.protocols)
        ):
            # Other addresses could be anyone's: a peer must not make us dial third parties.
            seen = group_of_address(connection.address)
            there = [one for one in identity.listen_addresses if group_of_address(one) == seen]
            if there:
                self.learn(peer_id, there, PeerOrigin.INBOUND)
        self.store.described(peer_id, protocols=identity.protocols)
        self.wake()

    def peer_described(self, peer_id: PeerIdText, cluster: int, shards: Collection[int]) -> None:
        """Store the shards from the metadata of a peer in our cluster."""
        self.store.described(peer_id, cluster=cluster, shards=shards)
        self.wake()

    def other_network(self, peer_id: PeerIdText, why: str) -> None:
        """Do not redial a peer that is in another network."""
        self.store.postpone(peer_id, self.now(), USELESS_DELAY, why)

    def peer_disconnected(self, peer_id: PeerIdText, reason: str, cause: EndCause = EndCause.OTHER) -> None:
        """Record the end of a connection."""
        connection = self._connected.pop(peer_id, None)
        self._evicting.discard(peer_id)
        if connection is None:
            return
        now = self.now()
        # Our own shutdown is not a failure of the peer: the next run should dial it first.
        lasted = math.inf if cause is EndCause.HOST_STOPPED else trio.current_time() - connection.since
        if self.store.lost(peer_id, now, lasted, reason):
            self._monitor.failure(now, peer_id)
        self.wake()

    # --- main loop ---

    def restore(self) -> None:
        """Load the peers of the last run."""
        self._keeper.restore(self._settings.usable)

    async def run(self) -> None:
        """Maintain connections until cancelled; save the store at the end."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._watch_sleep)
                nursery.start_soon(self._keeper.run)
                while True:
                    self._wake = trio.Event()
                    self._step(nursery)
                    with trio.move_on_after(SHORT_PERIOD if self.short else LONG_PERIOD):
                        await self._wake.wait()
                    await trio.sleep(PAUSE if self._may_be_online() else PAUSE_OFFLINE)
        finally:
            self._nursery = None
            self._keeper.save_now()

    def _step(self, nursery: trio.Nursery) -> None:
        """Evaluate the plan and act on it."""
        now = self.now()
        if self._monitor.came_back(now, len(self._connected)):
            log.info("online", extra=fields(peers=len(self._connected)))
            self.store.retry_soon(now)
        for peer_id in self._monitor.excused(now, len(self._connected)):
            self.store.undo_failure(peer_id)
        step = plan(
            self.store,
            self._view_of_connected(),
            self._needs.wanted(),
            self._settings.targets,
            now=now,
            dialling=self._dials.under_way,
            at_once=AT_ONCE,
            per_group=self._settings.per_group,
            online=self._may_be_online(),
            rng=self._rng,
        )
        self.short = step.short
        self.short_shards, self.short_services = step.short_shards, step.short_services
        for peer in step.dial:
            self._dials.under_way[peer.peer_id] = peer
            nursery.start_soon(self._dial, peer, name=f"dial {peer.peer_id}")
        for peer_id, reason in step.evict:
            if peer_id not in self._evicting:
                self._evicting.add(peer_id)
                nursery.start_soon(self._evict, peer_id, reason)

    def _view_of_connected(self) -> Sequence[Connected]:
        now = trio.current_time()
        mesh = self._needs.mesh()
        busy = self._needs.at_work() | self._settings.protected | set(self._configured_peers.values())
        return [self._as_connected(connection, now, mesh, busy) for connection in self._connected.values()]

    def _as_connected(
        self, connection: PeerConnection, now: float, mesh: Set[PeerIdText], protected: Set[PeerIdText]
    ) -> Connected:
        peer_id, needs = connection.peer_id, self._needs
        identity = self._host.identity(peer_id)
        protocols = identity.protocols if identity is not None else ()
        return Connected(
            peer_id=peer_id,
            outbound=connection.direction is Direction.OUTBOUND,
            group=group_of_address(connection.address),
            age=now - connection.since,
            relay=RELAY_PROTOCOL in protocols,
            identified=identity is not None,
            shards=frozenset(needs.shards_of(peer_id)),
            services=frozenset(name for name, one in SERVICES.items() if one.protocol in protocols),
            in_mesh=peer_id in mesh,
            score=needs.score_of(peer_id),
            protected=peer_id in protected,
        )

    async def _dial(self, peer: KnownPeer) -> None:
        try:
            await self._dials.dial(peer)
        finally:
            self.wake()

    async def _evict(self, peer_id: PeerIdText, reason: str) -> None:
        self._evicted.add()
        self.postpone(peer_id, reason)
        await self._host.disconnect(peer_id, reason)

    async def _watch_sleep(self) -> None:
        detector = SleepDetector()
        while True:
            slept = detector.slept(boot_ns() / 1e9, time.monotonic())
            if slept is not None:
                await self.drop_all(f"the machine was suspended for {slept:.0f} s")
            await trio.sleep(SLEEP_PERIOD)

    async def drop_all(self, reason: str) -> None:
        """Close all connections because they are stale; new ones are made at once."""
        log.info("dropping all connections", extra=fields(reason=reason, peers=len(self._connected)))
        async with trio.open_nursery() as nursery:
            for peer_id in list(self._connected):
                nursery.start_soon(self._host.disconnect, peer_id, reason)
        self.store.retry_soon(self.now())
        self.wake()

    # --- metrics ---

    def _samples(self) -> Iterable[Sample]:
        now = self.now()
        yield "peer_store_size", {}, len(self.store)
        yield "peers_online", {}, float(self.online)
        yield "peers_dialling", {}, len(self._dials.under_way)
        yield "peers_waiting", {}, sum(not peer.is_due(now) for peer in self.store)
        yield "total_unique_peers", {}, self.store.arrived
        yield "peer_store_refused", {}, self.store.refused
        yield "peer_store_pruned", {}, self.store.pruned
