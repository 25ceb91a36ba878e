"""Relay parameters. Defaults come from 29/WAKU2-CONFIG, or from nwaku where the two differ."""

from __future__ import annotations

from dataclasses import dataclass, field

RELAY_PROTOCOL = "/vac/waku/relay/2.0.0"
"""11/WAKU2-RELAY: GossipSub v1.1 semantics under this protocol id."""

AGENT_PREFIX = "logos-kernel/"
"""Prefix of this implementation's identify agent, unless the operator set another."""


@dataclass(frozen=True, slots=True)
class GossipParams:
    """GossipSub v1.1 parameters. Durations are in seconds, windows in heartbeats."""

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
    """Byte budget of the message cache; the oldest messages are evicted first."""
    seen_ttl: float = 120.0
    seen_max: int = 200_000
    """Maximum ids per generation and topic (a 32-byte id takes about 100 B). A full generation is rotated
    early."""
    prune_backoff: float = 60.0
    unsubscribe_backoff: float = 5.0
    backoff_slack: float = 1.0
    """Seconds we wait after the end of a back-off before sending GRAFT, because clocks and heartbeats
    differ (gossipsub-v1.1, Prune Backoff)."""
    link_loss_backoff: float = 63.0
    """Seconds during which we do not GRAFT a peer after losing its connection or a relay stream.

    nim-libp2p then starts a 60 s back-off for every topic without sending a PRUNE, and penalises a GRAFT
    inside it.
    """
    max_backoffs: int = 16_384
    peer_exchange: bool = False
    """Suggest other peers when we PRUNE for lack of room, and accept suggestions (PX)."""
    prune_peers: int = 16
    """Maximum number of peers in one PRUNE (GossipSub v1.1; nim-libp2p uses twice D_high, the same
    number)."""
    flood_publish: bool = True
    """Publish to all subscribers of a topic instead of to the mesh alone, if we are in one."""
    max_ihave_messages: int = 10
    """RPCs with IHAVE accepted from one peer per heartbeat."""
    max_ihave_length: int = 5000
    """Ids accepted in one IHAVE, and ids requested from one peer per heartbeat."""
    max_ihave_sent: int = 4500
    """Ids of one topic offered to a peer per heartbeat: what fits into the RPCs it will accept."""
    iwant_followup: float = 3.0
    """Seconds in which a requested message must arrive (from any peer); after that the promise is broken
    (P7)."""
    iwant_retransmissions: int = 3
    """How often one cached message is sent to the same peer in reply to IWANT."""
    iwant_bytes: int = 4 * 1024 * 1024
    """Bytes sent to one peer per heartbeat in reply to IWANT."""
    idontwant_threshold: int = 512
    """Announce messages with more data than this with IDONTWANT (nwaku: max(512, 10 × id length))."""
    max_idontwant: int = 5000
    """IDONTWANT ids kept per peer and generation (three heartbeats)."""
    max_topics_per_peer: int = 1024
    """Subscriptions kept per peer; further ones are counted and ignored."""


@dataclass(frozen=True, slots=True)
class ScoreParams:
    """Peer scoring (GossipSub v1.1) with the values of nwaku and go-waku, where P3, P3b and P5 have weight
    0."""

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
    """Peers allowed per IP address (an IPv6 /64 counts as one) before P6 applies. 0: no limit."""
    colocation_exempt: frozenset[str] = frozenset({"127.0.0.1", "::1"})
    """Addresses that are shared by design: a reverse proxy on this machine, test networks on loopback."""
    behaviour_weight: float = -10.0
    behaviour_decay: float = 0.986
    decay_interval: float = 12.0
    decay_to_zero: float = 0.01
    retain: float = 600.0
    """Seconds a negative score is kept after a disconnect, so that reconnecting does not reset it."""
    max_retained: int = 4096
    gossip_threshold: float = -100.0
    publish_threshold: float = -1000.0
    graylist_threshold: float = -10_000.0
    accept_px_threshold: float = 0.0
    """Ignore PX suggestions from a peer with a lower score.

    0 as in go-waku. nim-libp2p only requires the gossip threshold, which lets peers that already misbehaved
    steer us.
    """
    graft_in_backoff: float = 0.1
    """Behaviour penalty (P7) for a GRAFT inside a back-off; the value of nwaku."""
    broken_promise: float = 1.0
    malformed_rpc: float = 1.0
    disconnect_bad_peers: bool = True
    """Disconnect peers below the graylist threshold, as nwaku does; otherwise only ignore their RPCs."""


@dataclass(frozen=True, slots=True)
class QueueParams:
    """Bounds of the send path. A frame is one shared object, however many queues hold it."""

    message_bytes: int = 8 * 1024 * 1024
    message_count: int = 16_384
    control_bytes: int = 1024 * 1024
    control_count: int = 1024
    write_bytes: int = 60_000
    """Join queued frames up to this many bytes per stream write (one Noise transport message)."""
    publish_wait: float = 5.0
    """Seconds to wait for room in a full queue when publishing, before skipping that peer."""


@dataclass(frozen=True, slots=True)
class RelayParams:
    max_rpc_size: int = 153_600
    """Largest RPC body we send. As in nwaku, the maximum message size limits the whole RPC."""
    accept_slack: int = 64 * 1024
    """Bytes by which an accepted RPC may exceed `max_rpc_size` (several messages in one RPC, other
    implementations)."""
    gossip: GossipParams = field(default_factory=GossipParams)
    score: ScoreParams = field(default_factory=ScoreParams)
    queues: QueueParams = field(default_factory=QueueParams)
    reopen_attempts: int = 8
    """Consecutive failures to open our stream to a connected peer before we stop relaying to it."""
    reopen_delay: float = 0.1
    """Delay before the second attempt; doubled for each further one, up to `reopen_delay_max`."""
    reopen_delay_max: float = 10.0
    max_hold: float = 0.005
    """Seconds a reader may work before it yields to other tasks."""
