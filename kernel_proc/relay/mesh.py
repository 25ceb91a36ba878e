"""Mesh membership (GossipSub v1.0 and v1.1): join and leave, GRAFT and PRUNE, heartbeat upkeep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from kernel_proc.relay.exchange import peers_to_offer
from kernel_proc.relay.rpc import PeerInfo, Prune
from kernel_proc.relay.state import Peer, PxOffer, RouterState, Topic

LINK_LOSS_PRUNE: Final = 1
"""Back-off in seconds of the PRUNE after a lost stream: the peer may GRAFT us again at once."""


class Mesh:
    """The mesh half of the router core."""

    def __init__(self, state: RouterState) -> None:
        self._s = state
        self._p = state.params

    # -- our own subscriptions --------------------------------------------------------------------------

    def join(self, topic: Topic, now: float) -> None:
        """Build the mesh of a newly subscribed topic (gossipsub-v1.0, JOIN)."""
        self._fill(topic, now, self._p.d - len(topic.mesh))

    def leave(self, topic: Topic, now: float) -> None:
        for peer in list(topic.mesh.values()):
            self._s.ungraft(peer, topic)
            others = self._others(peer, topic, now)
            self._s.send_prune(peer, topic.name, self._p.unsubscribe_backoff, now, others)

    def link_lost(self, peer: Peer) -> None:
        """Remove a connected peer from every mesh after one of its relay streams ended.

        The peer has most likely dropped us from its mesh without a PRUNE. Our short PRUNE brings both sides
        back in step if it has not.
        """
        for topic in self._s.topics.values():
            if peer.peer_id in topic.mesh:
                self._s.ungraft(peer, topic)
                self._s.outgoing(peer).control.prune.append(Prune(topic.name, LINK_LOSS_PRUNE))

    # -- control received -------------------------------------------------------------------------------

    def on_graft(self, peer: Peer, name: str, now: float) -> None:
        s = self._s
        topic = s.topics.get(name)
        # An unknown topic gets no answer, so that GRAFT cannot be used to probe our subscriptions
        # (gossipsub-v1.1, Spam Protection Measures: GRAFT for unknown topic).
        if topic is None or not topic.subscribed:
            return
        if peer.peer_id in topic.mesh:
            s.note_graft(peer, topic)
            return
        # gossipsub-v1.1, Prune Backoff: a GRAFT inside the back-off costs score (P7) and is answered with a
        # PRUNE.
        if s.backoffs.active((name, peer.peer_id), now):
            s.counters["grafts_in_backoff"] += 1
            s.penalise(peer, s.score_params.graft_in_backoff, now)
            self._refuse(peer, name, now)
        elif s.score(peer, now) < 0:
            self._refuse(peer, name, now)
        elif len(topic.mesh) >= self._p.d_high and not peer.outbound:
            # Outbound peers may exceed D_high; otherwise a crowd of inbound connections could eclipse us
            # (gossipsub-v1.1, Outbound Mesh Quotas).
            self._refuse(peer, name, now, self._others(peer, topic, now))
        else:
            s.graft(peer, topic, now)
            s.note_graft(peer, topic)

    def on_prune(self, peer: Peer, prune: Prune, now: float) -> None:
        s = self._s
        topic = s.topics.get(prune.topic)
        if topic is None:
            return
        # A missing (v1.0) or zero back-off is replaced by ours: without one the peer could GRAFT and PRUNE us
        # in a loop and hand us new peers each time.
        s.backoffs.set((topic.name, peer.peer_id), now + (prune.backoff or self._p.prune_backoff))
        meshed = peer.peer_id in topic.mesh
        if meshed:
            s.ungraft(peer, topic)
        if prune.peers:
            s.counters["px_offered"] += len(prune.peers)
            # gossipsub-v1.1, Peer Exchange: only a mesh member with a sufficient score may send us to other
            # peers.
            if meshed and self._p.peer_exchange and s.score(peer, now) >= s.score_params.accept_px_threshold:
                s.px_offers.append(PxOffer(peer.peer_id, topic.name, prune.peers))
            else:
                s.counters["px_ignored"] += len(prune.peers)

    def _refuse(self, peer: Peer, topic: str, now: float, others: tuple[PeerInfo, ...] = ()) -> None:
        self._s.counters["grafts_refused"] += 1
        self._s.send_prune(peer, topic, self._p.prune_backoff, now, others)

    def _others(self, peer: Peer, topic: Topic, now: float) -> tuple[PeerInfo, ...]:
        """Peers to suggest when we refuse a GRAFT or leave the topic."""
        if not self._p.peer_exchange:
            return ()
        s = self._s
        subscribers = s.subscribers_of(topic.name)
        return peers_to_offer(peer, subscribers, lambda one: s.score(one, now), self._p.prune_peers, s.rng)

    # -- upkeep -----------------------------------------------------------------------------------------

    def maintain(self, topic: Topic, now: float) -> None:
        """Maintain the mesh of one subscribed topic for one heartbeat (gossipsub-v1.1, Mesh maintenance)."""
        p, s = self._p, self._s
        scores = {peer.peer_id: s.score(peer, now) for peer in topic.mesh.values()}
        for peer in [peer for peer in topic.mesh.values() if scores[peer.peer_id] < 0]:
            self._prune(peer, topic, now)
        if len(topic.mesh) < p.d_low:
            self._fill(topic, now, p.d - len(topic.mesh))
        if len(topic.mesh) > p.d_high:
            for peer in self._surplus(topic, scores, now):
                self._prune(peer, topic, now, self._others(peer, topic, now))
        outbound = sum(peer.outbound for peer in topic.mesh.values())
        if len(topic.mesh) >= p.d_low and outbound < p.d_out:
            self._fill(topic, now, p.d_out - outbound, lambda peer: peer.outbound)

    def _surplus(self, topic: Topic, scores: dict[str, float], now: float) -> list[Peer]:
        """Choose the peers to PRUNE so that D remain.

        The best D_score stay and the rest are drawn at random, with at least D_out of those kept outbound
        (gossipsub-v1.1, Mesh maintenance).
        """
        p, s = self._p, self._s
        ranked = list(topic.mesh.values())
        s.rng.shuffle(ranked)
        ranked.sort(key=lambda peer: scores.get(peer.peer_id) or s.score(peer, now), reverse=True)
        rest = ranked[p.d_score :]
        s.rng.shuffle(rest)
        ranked[p.d_score :] = rest
        keep, go = ranked[: p.d], ranked[p.d :]
        missing = p.d_out - sum(peer.outbound for peer in keep)
        for peer in [peer for peer in go if peer.outbound][: max(0, missing)]:
            # Trade the last inbound peer to keep for an outbound one.
            victim = next((k for k in reversed(keep) if not k.outbound), None)
            if victim is None:
                break
            keep.remove(victim)
            go.remove(peer)
            keep.append(peer)
            go.append(victim)
        return go

    def _fill(self, topic: Topic, now: float, count: int, also: Callable[[Peer], bool] | None = None) -> None:
        if count <= 0:
            return
        candidates = [
            peer
            for peer in self._s.subscribers_of(topic.name)
            if (also is None or also(peer)) and self._graftable(peer, topic, now)
        ]
        for peer in self._s.rng.sample(candidates, min(count, len(candidates))):
            self._graft(peer, topic, now)

    def _graftable(self, peer: Peer, topic: Topic, now: float) -> bool:
        return (
            peer.peer_id not in topic.mesh
            and not self._s.backoffs.active((topic.name, peer.peer_id), now, self._p.backoff_slack)
            and self._s.may_graft(peer, now)
            and self._s.score(peer, now) >= 0
        )

    def _graft(self, peer: Peer, topic: Topic, now: float) -> None:
        self._s.graft(peer, topic, now)
        self._s.send_graft(peer, topic.name)

    def _prune(self, peer: Peer, topic: Topic, now: float, others: tuple[PeerInfo, ...] = ()) -> None:
        self._s.ungraft(peer, topic)
        self._s.send_prune(peer, topic.name, self._p.prune_backoff, now, others)
