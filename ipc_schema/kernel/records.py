"""The kernel's reports of itself and of its peers, shared by methods and events."""

from __future__ import annotations

from enum import StrEnum

from ipc_schema.body import Body, Uint

__all__ = [
    "EventLoopHealth",
    "NodeHealth",
    "PeerChange",
    "PeerRecord",
    "ProtocolHealth",
    "ProtocolState",
    "ShardHealth",
    "TopicHealth",
]


class ProtocolState(StrEnum):
    """States of a protocol or of the whole node. Readers accept others: the field is text."""

    INITIALIZING = "INITIALIZING"
    SYNCHRONIZING = "SYNCHRONIZING"
    READY = "READY"
    NOT_READY = "NOT_READY"
    NOT_MOUNTED = "NOT_MOUNTED"
    SHUTTING_DOWN = "SHUTTING_DOWN"
    EVENT_LOOP_LAGGING = "EVENT_LOOP_LAGGING"


class TopicHealth(StrEnum):
    """Health of a shard, and of a content topic by its shard."""

    UNHEALTHY = "UNHEALTHY"
    MINIMALLY_HEALTHY = "MINIMALLY_HEALTHY"
    SUFFICIENTLY_HEALTHY = "SUFFICIENTLY_HEALTHY"
    NOT_SUBSCRIBED = "NOT_SUBSCRIBED"

    @classmethod
    def of_mesh(cls, mesh_peers: int) -> TopicHealth:
        """Return the health of a subscribed shard with so many mesh peers."""
        if mesh_peers < 1:
            return cls.UNHEALTHY
        return cls.MINIMALLY_HEALTHY if mesh_peers < 4 else cls.SUFFICIENTLY_HEALTHY

    @classmethod
    def of_filter(cls, filter_peers: int) -> TopicHealth:
        """Return the health of a shard that so many peers push by filter."""
        if filter_peers < 1:
            return cls.UNHEALTHY
        return cls.MINIMALLY_HEALTHY if filter_peers < 2 else cls.SUFFICIENTLY_HEALTHY


class PeerChange(StrEnum):
    """The kinds of peer events."""

    JOINED = "joined"
    LEFT = "left"
    CHANGED = "changed"


class ProtocolHealth(Body):
    """One protocol of the node. `strength`: connected peers that carry it."""

    name: str
    state: str
    description: str = ""
    strength: Uint = 0


class ShardHealth(Body):
    """One shard of the node's cluster; `health` is a `TopicHealth`.

    `filter_peers`: peers that push what this node's consumers want on it, counted for the content topic
    with the fewest.
    """

    shard: Uint
    pubsub_topic: str
    mesh_peers: Uint = 0
    connected_peers: Uint = 0
    filter_peers: Uint = 0
    health: str


class EventLoopHealth(Body):
    """Latency of the kernel's loop in ms, and its mean over 1, 5 and 15 minutes in units of the accepted lag
    (50 ms; 1 is just acceptable, more is possible)."""

    lag_ms: float = 0.0
    load_1m: float = 0.0
    load_5m: float = 0.0
    load_15m: float = 0.0


class NodeHealth(Body):
    """Reply of `node.health` and content of the health event; `state` is a `ProtocolState`."""

    state: str
    protocols: tuple[ProtocolHealth, ...] = ()
    shards: tuple[ShardHealth, ...] = ()
    event_loop: EventLoopHealth = EventLoopHealth()


class PeerRecord(Body):
    """A peer: element of `peers.list` and content of the peer event.

    `direction` is `inbound` or `outbound`; `connected_ms` how long it has been connected; `cluster` None
    until the metadata protocol reports it; `origin` how the node found it; `score` None without scoring;
    `mesh` the pubsub topics in whose mesh it is.
    """

    peer_id: str
    address: str = ""
    direction: str = ""
    connected_ms: Uint = 0
    agent: str = ""
    protocols: tuple[str, ...] = ()
    cluster: Uint | None = None
    shards: tuple[Uint, ...] = ()
    origin: str = ""
    score: float | None = None
    mesh: tuple[str, ...] = ()
