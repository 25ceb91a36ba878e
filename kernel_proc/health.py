"""The node's health: the state of each protocol, each shard and the event loop. Facts only; whether that
counts as "connected" is up to the readers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

import trio

from ipc_schema.kernel.records import (
    NodeHealth,
    ProtocolHealth,
    ProtocolState,
    ShardHealth,
    TopicHealth,
)
from kernel_proc.lag import EventLoopLag
from logos_process.logs import fields

log = logging.getLogger(__name__)

MERGE_SECONDS: Final = 0.1
"""Changes within this time are merged into one event."""

NOT_MOUNTED: Final = (
    "Rln Relay",
    "Rendezvous",
    "Mix",
)
"""Protocols of nwaku that this version does not have, listed for readers that expect them."""


_BEST_FIRST: Final = (
    TopicHealth.SUFFICIENTLY_HEALTHY,
    TopicHealth.MINIMALLY_HEALTHY,
    TopicHealth.UNHEALTHY,
)


def relay_health(peers: int, *, mounted: bool) -> ProtocolHealth:
    """Return READY with at least one connected relay peer."""
    lacks = "" if peers else "No connected peers"
    return service_health("Relay", mounted=mounted, lacks=lacks, peers=peers)


def service_health(
    name: str, *, mounted: bool, lacks: str = "", note: str = "", peers: int = 0
) -> ProtocolHealth:
    """Return the health of relay, or of one of our services: READY unless it `lacks` something. `note`: what
    the operator should know otherwise."""
    if not mounted:
        return ProtocolHealth(name=name, state=ProtocolState.NOT_MOUNTED)
    state = ProtocolState.NOT_READY if lacks else ProtocolState.READY
    return ProtocolHealth(name=name, state=state, description=lacks or note, strength=peers)


def client_health(name: str, service: str, peers: int, *, own: bool = False) -> ProtocolHealth:
    """Return the health of the client of a `service`: READY with a connected service peer, or with our
    `own` service."""
    if peers or own:
        return ProtocolHealth(name=name, state=ProtocolState.READY, strength=peers)
    lacks = f"No {service} service peer available yet"
    return ProtocolHealth(name=name, state=ProtocolState.NOT_READY, description=lacks)


def shard_health(
    shard: int, topic: str, mesh: int, connected: int, *, subscribed: bool, pushing: int = 0
) -> ShardHealth:
    """Return the health of a shard from the numbers of its mesh, connected and pushing peers."""
    health = TopicHealth.NOT_SUBSCRIBED
    if subscribed:
        ways = {TopicHealth.of_mesh(mesh), TopicHealth.of_filter(pushing)}
        health = next(one for one in _BEST_FIRST if one in ways)
    return ShardHealth(
        shard=shard,
        pubsub_topic=topic,
        mesh_peers=mesh,
        connected_peers=connected,
        filter_peers=pushing,
        health=health,
    )


class HealthMonitor:
    """Assemble the health and publish changes.

    `protocols` and `shards` return the parts. `publish` is called after a change announced by `touch`, at
    most every 100 ms, and only if the health differs from the last one published (ignoring the event loop's
    load, which always changes).
    """

    def __init__(
        self,
        lag: EventLoopLag,
        protocols: Callable[[], Sequence[ProtocolHealth]],
        shards: Callable[[], Sequence[ShardHealth]],
        publish: Callable[[NodeHealth], None],
    ) -> None:
        self._lag = lag
        self._protocols = protocols
        self._shards = shards
        self._publish = publish
        self._state = ProtocolState.INITIALIZING
        self._changed = trio.Event()
        self._last: tuple[object, ...] = ()
        self._logged: dict[int, str] = {}

    @property
    def ready(self) -> bool:
        """Whether all parts are up and the node is not stopping."""
        return self._state is ProtocolState.READY and not self._archive_away()

    def _archive_away(self) -> bool:
        """Return whether messages should be stored but the archive's database is unavailable."""
        return any(one.name == "Store" and one.state is ProtocolState.NOT_READY for one in self._protocols())

    @property
    def state(self) -> ProtocolState:
        """The state of the node as a whole."""
        if self._state is ProtocolState.READY and self._archive_away():
            return ProtocolState.NOT_READY
        if self._state is ProtocolState.READY and self._lag.lagging:
            return ProtocolState.EVENT_LOOP_LAGGING
        return self._state

    def set_state(self, state: ProtocolState) -> None:
        """Set the state: INITIALIZING until all parts are up, READY, SHUTTING_DOWN."""
        self._state = state
        self.touch()

    def touch(self) -> None:
        """Announce that the health may have changed."""
        self._changed.set()

    def current(self) -> NodeHealth:
        return NodeHealth(
            state=self.state,
            protocols=tuple(self._protocols()),
            shards=tuple(self._shards()),
            event_loop=self._lag.report(),
        )

    async def run(self) -> None:
        """Publish changes until cancelled."""
        while True:
            await self._changed.wait()
            await trio.sleep(MERGE_SECONDS)
            self._changed = trio.Event()
            self.check()

    def check(self) -> None:
        """Publish the health if it differs from the last one published."""
        health = self.current()
        compared = (health.state, health.protocols, health.shards)
        if compared == self._last:
            return
        self._log_changes(health)
        self._last = compared
        self._publish(health)

    def _log_changes(self, health: NodeHealth) -> None:
        for shard in health.shards:
            if self._logged.get(shard.shard) != shard.health:
                log.info(
                    "shard health",
                    extra=fields(shard=shard.shard, health=shard.health, mesh_peers=shard.mesh_peers),
                )
        self._logged = {shard.shard: shard.health for shard in health.shards}
