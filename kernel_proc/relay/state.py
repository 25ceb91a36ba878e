"""The state shared by the parts of the router core: peers, topics, and pending output."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random
from typing import NamedTuple

from kernel_proc.relay.backoff import BackoffTable
from kernel_proc.relay.cache import CachedMessage, MessageCache
from kernel_proc.relay.params import GossipParams, ScoreParams
from kernel_proc.relay.promises import Promises
from kernel_proc.relay.rpc import Control, PeerInfo, Prune, Subscription
from kernel_proc.relay.scores import PeerScore, ScoreBook
from kernel_proc.relay.seen import SeenCache
from kernel_proc.relay.traffic import TopicTraffic, TrafficBook


class Peer:
    """A connected peer that speaks relay."""

    __slots__ = (
        "asked_ids",
        "dont_want",
        "dont_want_old",
        "graylisted",
        "ihave_count",
        "info",
        "outbound",
        "peer_id",
        "same_implementation",
        "score",
        "served_bytes",
        "topics",
        "unconfirmed",
        "unconfirmed_until",
    )

    def __init__(self, peer_id: str, outbound: bool, score: PeerScore) -> None:
        self.peer_id = peer_id
        self.outbound = outbound
        """We dialled the peer; it counts towards D_out."""
        self.score = score
        self.info: PeerInfo | None = None
        """The peer info to share in PX, once identify has completed."""
        self.same_implementation = False
        """It runs this implementation, which keeps no unannounced back-off: its mesh is restored at once."""
        self.graylisted = False
        """Kept in step with the score, so that the reader only checks a flag."""
        self.topics: set[str] = set()
        self.unconfirmed: set[str] = set()
        """Subscriptions from an earlier stream that were not yet repeated on the current one."""
        self.unconfirmed_until = 0.0
        self.ihave_count = 0
        self.asked_ids = 0
        self.served_bytes = 0
        self.dont_want: set[bytes] = set()
        self.dont_want_old: set[bytes] = set()

    def wants(self, message_id: bytes) -> bool:
        return message_id not in self.dont_want and message_id not in self.dont_want_old


class Topic:
    """A topic we are subscribed to, or recently were (its seen cache outlives the subscription)."""

    __slots__ = ("grafted", "mesh", "name", "raw", "seen", "subscribed", "traffic")

    def __init__(self, name: str, seen: SeenCache, traffic: TopicTraffic) -> None:
        self.name = name
        self.raw = name.encode()
        self.seen = seen
        self.traffic = traffic
        self.subscribed = False
        self.mesh: dict[str, Peer] = {}
        self.grafted: dict[str, Sequence[bytes]] = {}
        """Mesh peers whose GRAFT arrived since the last heartbeat, with the ids that were recent then."""


class PxOffer(NamedTuple):
    """Peers that `peer` suggested for `topic` when it pruned us. Their records are not verified."""

    peer: str
    topic: str
    peers: tuple[PeerInfo, ...]


class OutgoingRpc:
    """Pending output for one peer, collected over a batch of input and sent together."""

    __slots__ = ("control", "messages", "subscriptions")

    def __init__(self) -> None:
        self.subscriptions: list[Subscription] = []
        self.control = Control()
        self.messages: list[CachedMessage] = []


class RouterState:
    """The whole state of the core. `rng` breaks ties; time is passed with each call."""

    def __init__(self, gossip: GossipParams, score: ScoreParams, rng: Random) -> None:
        self.params = gossip
        self.score_params = score
        self.rng = rng
        self.peers: dict[str, Peer] = {}
        self.topics: dict[str, Topic] = {}
        self.by_raw: dict[bytes, Topic] = {}
        """Subscribed topics only, by their UTF-8 name as it appears in messages."""
        self.subscribers: dict[str, dict[str, Peer]] = {}
        """Peers by topic, including topics we are not subscribed to."""
        self.scores = ScoreBook(score)
        self.backoffs: BackoffTable[tuple[str, str]] = BackoffTable(gossip.max_backoffs)
        """By (topic, peer), set by a PRUNE in either direction; binding for both sides."""
        self.link_loss_backoffs: BackoffTable[str] = BackoffTable(gossip.max_backoffs)
        """By peer, after a lost link: the peer may keep an unannounced back-off. Binding for us only; a
        GRAFT from the peer is accepted."""
        self.cache = MessageCache(gossip.history_length, gossip.history_gossip, gossip.history_bytes)
        self.promises = Promises(gossip.iwant_followup, retry=gossip.heartbeat_interval)
        self.pending: dict[str, OutgoingRpc] = {}
        self.changed: set[str] = set()
        """Topics whose mesh or subscribers changed since the shell last collected them."""
        self.bad_peers: list[str] = []
        """Peers that fell below the graylist threshold since the shell last collected them."""
        self.px_offers: list[PxOffer] = []
        self.traffic = TrafficBook()
        self.counters: dict[str, int] = dict.fromkeys(COUNTERS, 0)

    def new_topic(self, name: str, now: float) -> Topic:
        """Begin to remember what was seen on a topic."""
        seen = SeenCache(self.params.seen_ttl, self.params.seen_max, now)
        topic = self.topics[name] = Topic(name, seen, self.traffic.of(name))
        return topic

    def outgoing(self, peer: Peer) -> OutgoingRpc:
        waiting = self.pending.get(peer.peer_id)
        if waiting is None:
            waiting = self.pending[peer.peer_id] = OutgoingRpc()
        return waiting

    def score(self, peer: Peer, now: float) -> float:
        return self.scores.score(peer.score, now)

    def update_graylisted(self, peer: Peer, now: float) -> None:
        """Update the graylist flag. Call after anything that lowers the score."""
        below = self.score(peer, now) < self.score_params.graylist_threshold
        if below and not peer.graylisted:
            self.bad_peers.append(peer.peer_id)
        peer.graylisted = below

    def penalise(self, peer: Peer, amount: float, now: float) -> None:
        self.scores.misbehaved(peer.score, amount)
        self.update_graylisted(peer, now)

    def subscribers_of(self, topic: str) -> Iterable[Peer]:
        return self.subscribers.get(topic, {}).values()

    def graft(self, peer: Peer, topic: Topic, now: float) -> None:
        """Add a peer to the mesh without sending GRAFT."""
        topic.mesh[peer.peer_id] = peer
        self.scores.grafted(peer.score, topic.name, now)
        self.changed.add(topic.name)
        self.counters["grafted"] += 1

    def note_graft(self, peer: Peer, topic: Topic) -> None:
        """Record a GRAFT of a mesh peer."""
        if peer.peer_id not in topic.grafted:
            topic.grafted[peer.peer_id] = self.cache.gossip_ids(topic.name)

    def ungraft(self, peer: Peer, topic: Topic) -> None:
        """Remove a peer from the mesh without sending PRUNE."""
        del topic.mesh[peer.peer_id]
        topic.grafted.pop(peer.peer_id, None)
        self.scores.pruned(peer.score, topic.name)
        self.changed.add(topic.name)
        self.counters["pruned"] += 1

    def may_graft(self, peer: Peer, now: float) -> bool:
        """Return whether the peer is free of a back-off from a lost link."""
        return peer.same_implementation or not self.link_loss_backoffs.active(peer.peer_id, now)

    def send_graft(self, peer: Peer, topic: str) -> None:
        self.outgoing(peer).control.graft.append(topic)

    def send_prune(
        self, peer: Peer, topic: str, backoff: float, now: float, others: tuple[PeerInfo, ...] = ()
    ) -> None:
        """Send a PRUNE with a back-off, binding for both sides, and `others` as alternatives."""
        self.backoffs.set((topic, peer.peer_id), now + backoff)
        self.outgoing(peer).control.prune.append(Prune(topic, round(backoff), others))
        self.counters["px_given"] += len(others)


COUNTERS = (
    "grafted",
    "pruned",
    "grafts_refused",
    "grafts_in_backoff",
    "ihave_ignored",
    "iwant_sent",
    "iwant_served",
    "iwant_refused",
    "idontwant_sent",
    "idontwant_received",
    "idontwant_saved",
    "promises_broken",
    "topics_over_limit",
    "px_given",
    "px_offered",
    "px_ignored",
)
