"""What can be set about the relay. Defaults: 29/WAKU2-CONFIG, and nwaku where the two differ."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["AGENT_PREFIX", "RELAY_PROTOCOL", "GossipParams", "QueueParams", "RelayParams", "ScoreParams"]

RELAY_PROTOCOL = "/vac/waku/relay/2.0.0"
"""11/WAKU2-RELAY. GossipSub v1.1 semantics under this id."""

AGENT_PREFIX = "logos-kernel/"
"""How the identify agent of this implementation begins, unless the operator set another."""


@dataclass(frozen=True, slots=True)
class GossipParams:
    """GossipSub v1.1 parameters. Times in seconds, windows in heartbeats."""

    d: int = 6
    d_low: int = 4
    d_high: int = 8
    d_score: int = 6
    d_out: int = 3
    d_lazy: int = 6
    gossip_factor: float = 0.25
    heartbeat_interval: float = 1.0
    heartbeat_initial_delay: float = 0.1
    history_length: int = 6
    history_gossip: int = 3
    history_bytes: int = 32 * 1024 * 1024
    """Budget of the message cache; the oldest leave first."""
    fanout_ttl: float = 60.0
    seen_ttl: float = 120.0
    seen_max: int = 200_000
    """Ids per generation and topic; a fuller generation turns early (a 32-byte id costs about 100 B)."""
    prune_backoff: float = 60.0
    unsubscribe_backoff: float = 5.0
    backoff_slack: float = 1.0
    """We GRAFT only this long after a back-off has ended: clocks and heartbeats differ."""
    link_loss_backoff: float = 63.0
    """Seconds without a GRAFT to a peer after its connection or a relay stream was lost. nim-libp2p starts a
    back-off of 60 s for every topic then, without sending a PRUNE, and holds a GRAFT inside it against us."""
    max_backoffs: int = 16_384
    peer_exchange: bool = False
    """Name other peers in a PRUNE for want of room, and heed those that are named to us."""
    prune_peers: int = 16
    """Peers named in one PRUNE, at most (GossipSub v1.1; nim-libp2p: twice D_high, which is the same)."""
    flood_publish: bool = True
    max_ihave_messages: int = 10
    """RPCs with IHAVE heeded from one peer per heartbeat, as every implementation counts them."""
    max_ihave_length: int = 5000
    """Ids heeded in one IHAVE, and ids asked of one peer per heartbeat."""
    max_ihave_sent: int = 4500
    """Ids of a topic offered to one peer per heartbeat: as many as fit into the RPCs that it will heed."""
    iwant_followup: float = 3.0
    """An id asked for must arrive (from anyone) within this time, or the promise is broken (P7)."""
    iwant_retransmissions: int = 3
    """Times one cached message is sent to the same peer on request."""
    iwant_bytes: int = 4 * 1024 * 1024
    """Bytes sent to one peer per heartbeat on request."""
    idontwant_threshold: int = 512
    """Messages with more bytes of data than this are announced with IDONTWANT (nwaku: max(512, 10 · id))."""
    max_idontwant: int = 5000
    """Ids kept of one peer's IDONTWANT per generation (three heartbeats)."""
    max_topics_per_peer: int = 1024
    """Subscriptions remembered of one peer; the rest are counted and ignored."""


@dataclass(frozen=True, slots=True)
class ScoreParams:
    """Peer scoring (GossipSub v1.1); the values of nwaku and go-waku. P3, P3b and P5 weigh nothing there."""

    topic_weight: float = 1.0
    time_in_mesh_weight: float = 0.01
    time_in_mesh_quantum: float = 1.0
    time_in_mesh_cap: float = 10.0
    first_deliveries_weight: float = 1.0
    first_deliveries_decay: float = 0.5
    first_deliveries_cap: float = 10.0
    invalid_weight: float = -100.0
    invalid_decay: float = 0.5
    colocation_weight: float = -50.0
    colocation_threshold: int = 5
    """Peers at one place (an IPv6 /64 counts as one) that are not held against each other; 0: any number."""
    colocation_exempt: frozenset[str] = frozenset({"127.0.0.1", "::1"})
    """Addresses shared by nature: a reverse proxy on this machine, test networks on loopback."""
    behaviour_weight: float = -10.0
    behaviour_decay: float = 0.986
    decay_interval: float = 12.0
    decay_to_zero: float = 0.01
    retain: float = 600.0
    """A negative score outlives the connection this long, so that redialling washes nothing off."""
    max_retained: int = 4096
    gossip_threshold: float = -100.0
    publish_threshold: float = -1000.0
    graylist_threshold: float = -10_000.0
    accept_px_threshold: float = 0.0
    """Peers named by a peer with a lower score are ignored. Zero as in go-waku; nim-libp2p asks for more than
    the gossip threshold only, which lets those lead us who have already been caught."""
    graft_in_backoff: float = 0.1
    """Added to the behaviour counter by a GRAFT inside a back-off (as nwaku counts it)."""
    broken_promise: float = 1.0
    malformed_rpc: float = 1.0
    disconnect_bad_peers: bool = True
    """Below the graylist threshold: close the connection, as nwaku does; if not, only ignore its RPCs."""


@dataclass(frozen=True, slots=True)
class QueueParams:
    """Bounds of the way out. A frame is one object however many queues hold it."""

    message_bytes: int = 8 * 1024 * 1024
    message_count: int = 16_384
    control_bytes: int = 1024 * 1024
    control_count: int = 1024
    write_bytes: int = 60_000
    """Queued frames are joined up to this for one stream write (one noise message of the transport)."""
    publish_wait: float = 5.0
    """How long an own publish waits for room in a full queue before it gives up on that peer."""
    validations: int = 64
    """Asynchronous validations in flight; above it, readers wait."""


@dataclass(frozen=True, slots=True)
class RelayParams:
    max_rpc_size: int = 153_600
    """Largest RPC body sent, exact, as in nwaku, where the maximum message size bounds the whole RPC."""
    accept_slack: int = 64 * 1024
    """What is accepted may be this much larger (several messages in one RPC, other implementations)."""
    gossip: GossipParams = field(default_factory=GossipParams)
    score: ScoreParams = field(default_factory=ScoreParams)
    queues: QueueParams = field(default_factory=QueueParams)
    reopen_attempts: int = 8
    """Openings of our stream to one connected peer that may fail in a row before the peer is let go."""
    reopen_delay: float = 0.1
    """Wait before the second attempt, doubled for each further one, at most `reopen_delay_max`."""
    reopen_delay_max: float = 10.0
    max_hold: float = 0.005
    """Seconds a reader works before it lets other tasks run."""
