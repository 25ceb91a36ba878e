"""The state that the parts of the router core share: peers, topics, and what waits to be sent."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import NamedTuple

from kernel_proc.relay.backoff import BackoffTable
from kernel_proc.relay.cache import CachedMessage, MessageCache
from kernel_proc.relay.params import GossipParams, ScoreParams
from kernel_proc.relay.promises import Promises
from kernel_proc.relay.rpc import Control, PeerInfo, Prune, Subscription
from kernel_proc.relay.scores import PeerScore, ScoreBook
from kernel_proc.relay.seen import SeenCache

__all__ = ["OutgoingRpc", "Peer", "PxOffer", "RouterState", "Topic"]


class Peer:
    """One connected peer that speaks relay."""

    __slots__ = (
        "asked_ids",
        "dont_want",
        "dont_want_old",
        "graylisted",
        "ihave_count",
        "info",
        "is_kin",
        "outbound",
        "peer_id",
        "score",
        "served_bytes",
        "topics",
        "unconfirmed",
        "unconfirmed_until",
    )

    def __init__(self, peer_id: str, outbound: bool, score: PeerScore) -> None:
        self.peer_id = peer_id
        self.outbound = outbound
        """We dialled it (counts for D_out)."""
        self.score = score
        self.info: PeerInfo | None = None
        """How we may name it to others, once identify has arrived."""
        self.is_kin = False
        """It runs this implementation, which keeps no silent back-off: its mesh is restored at once."""
        self.graylisted = False
        """Kept up to date with the score, so that the reader looks at one flag."""
        self.topics: set[str] = set()
        self.unconfirmed: set[str] = set()
        """Subscriptions made on an earlier stream and not yet repeated on the present one."""
        self.unconfirmed_until = 0.0
        self.ihave_count = 0
        self.asked_ids = 0
        self.served_bytes = 0
        self.dont_want: set[bytes] = set()
        self.dont_want_old: set[bytes] = set()

    def wants(self, message_id: bytes) -> bool:
        return message_id not in self.dont_want and message_id not in self.dont_want_old


class Topic:
    """A topic we are subscribed to, or were a short time ago (its seen cache outlives the subscription)."""

    __slots__ = ("mesh", "name", "raw", "seen", "subscribed")

    def __init__(self, name: str, seen: SeenCache) -> None:
        self.name = name
        self.raw = name.encode()
        self.seen = seen
        self.subscribed = False
        self.mesh: dict[str, Peer] = {}


class PxOffer(NamedTuple):
    """Peers that `peer` named for `topic` when it pruned us. Their records are not verified."""

    peer: str
    topic: str
    peers: tuple[PeerInfo, ...]


class OutgoingRpc:
    """What waits to be sent to one peer; it is collected over a batch of input and then goes out together."""

    __slots__ = ("control", "messages", "subscriptions")

    def __init__(self) -> None:
        self.subscriptions: list[Subscription] = []
        self.control = Control()
        self.messages: list[CachedMessage] = []


class RouterState:
    """Everything the core knows. `rng` decides between equals; time comes with each call."""

    def __init__(self, gossip: GossipParams, score: ScoreParams, rng: Random) -> None:
        self.params = gossip
        self.score_params = score
        self.rng = rng
        self.peers: dict[str, Peer] = {}
        self.topics: dict[str, Topic] = {}
        self.by_raw: dict[bytes, Topic] = {}
        """Subscribed topics only, by the bytes that stand in a message."""
        self.subscribers: dict[str, dict[str, Peer]] = {}
        """Peers by topic, also of topics we are not subscribed to."""
        self.fanout: dict[str, dict[str, Peer]] = {}
        self.fanout_used: dict[str, float] = {}
        self.scores = ScoreBook(score)
        self.backoffs: BackoffTable[tuple[str, str]] = BackoffTable(gossip.max_backoffs)
        """By (topic, peer), as agreed by a PRUNE: it binds both sides."""
        self.silences: BackoffTable[str] = BackoffTable(gossip.max_backoffs)
        """By peer, after a lost link: the peer may keep a back-off that it has not announced. It binds us
        only; the peer's own GRAFT is welcome."""
        self.cache = MessageCache(gossip.history_length, gossip.history_gossip, gossip.history_bytes)
        self.promises = Promises(gossip.iwant_followup, retry=gossip.heartbeat_interval)
        self.pending: dict[str, OutgoingRpc] = {}
        self.changed: set[str] = set()
        """Topics whose mesh or subscribers changed since the shell last asked."""
        self.bad_peers: list[str] = []
        """Peers that fell below the graylist threshold since the shell last asked."""
        self.px_offers: list[PxOffer] = []
        self.counters: dict[str, int] = dict.fromkeys(COUNTERS, 0)

    def outgoing(self, peer: Peer) -> OutgoingRpc:
        waiting = self.pending.get(peer.peer_id)
        if waiting is None:
            waiting = self.pending[peer.peer_id] = OutgoingRpc()
        return waiting

    def score(self, peer: Peer, now: float) -> float:
        return self.scores.score(peer.score, now)

    def judge(self, peer: Peer, now: float) -> None:
        """Bring the graylist flag in line with the score; call after anything that lowers it."""
        below = self.score(peer, now) < self.score_params.graylist_threshold
        if below and not peer.graylisted:
            self.bad_peers.append(peer.peer_id)
        peer.graylisted = below

    def punish(self, peer: Peer, amount: float, now: float) -> None:
        self.scores.misbehaved(peer.score, amount)
        self.judge(peer, now)

    def subscribers_of(self, topic: str) -> Iterable[Peer]:
        return self.subscribers.get(topic, {}).values()

    def graft(self, peer: Peer, topic: Topic, now: float) -> None:
        """Put a peer into the mesh, without telling it."""
        topic.mesh[peer.peer_id] = peer
        self.scores.grafted(peer.score, topic.name, now)
        self.changed.add(topic.name)
        self.counters["grafted"] += 1

    def ungraft(self, peer: Peer, topic: Topic) -> None:
        """Take a peer out of the mesh, without telling it."""
        del topic.mesh[peer.peer_id]
        self.scores.pruned(peer.score, topic.name)
        self.changed.add(topic.name)
        self.counters["pruned"] += 1

    def may_graft(self, peer: Peer, now: float) -> bool:
        """Return whether no lost link keeps us from grafting the peer."""
        return peer.is_kin or not self.silences.active(peer.peer_id, now)

    def send_graft(self, peer: Peer, topic: str) -> None:
        self.outgoing(peer).control.graft.append(topic)

    def send_prune(
        self, peer: Peer, topic: str, backoff: float, now: float, others: tuple[PeerInfo, ...] = ()
    ) -> None:
        """Send a PRUNE: the peer is not, or no longer, in our mesh, and may turn to `others`; the
        back-off binds both sides."""
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
