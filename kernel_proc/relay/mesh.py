"""Mesh membership: joining and leaving, GRAFT and PRUNE, upkeep at each heartbeat, fan-out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from kernel_proc.relay.exchange import peers_to_offer
from kernel_proc.relay.rpc import PeerInfo, Prune
from kernel_proc.relay.state import Peer, PxOffer, RouterState, Topic

__all__ = ["Mesh"]

LINK_LOSS_PRUNE: Final = 1
"""Seconds of back-off in the PRUNE after a lost stream: the peer may come back when it likes."""


class Mesh:
    """The mesh part of the router core (GossipSub v1.0 and v1.1)."""

    def __init__(self, state: RouterState) -> None:
        self._s = state
        self._p = state.params

    # -- our own subscriptions --------------------------------------------------------------------------

    def join(self, topic: Topic, now: float) -> None:
        """Fill the mesh of a topic we have just subscribed to, from its fan-out first."""
        fanout = self._s.fanout.pop(topic.name, {})
        self._s.fanout_used.pop(topic.name, None)
        for peer in list(fanout.values()):
            if self._graftable(peer, topic, now) and len(topic.mesh) < self._p.d:
                self._graft(peer, topic, now)
        self._fill(topic, now, self._p.d - len(topic.mesh))

    def leave(self, topic: Topic, now: float) -> None:
        for peer in list(topic.mesh.values()):
            self._s.ungraft(peer, topic)
            others = self._others(peer, topic, now)
            self._s.send_prune(peer, topic.name, self._p.unsubscribe_backoff, now, others)

    def link_lost(self, peer: Peer) -> None:
        """Take a connected peer out of every mesh after one of its relay streams ended.

        It has most likely dropped us in silence. The short PRUNE makes both sides agree where it has not.
        """
        for topic in self._s.topics.values():
            if peer.peer_id in topic.mesh:
                self._s.ungraft(peer, topic)
                self._s.outgoing(peer).control.prune.append(Prune(topic.name, LINK_LOSS_PRUNE))

    # -- control received -------------------------------------------------------------------------------

    def on_graft(self, peer: Peer, name: str, now: float) -> None:
        s = self._s
        topic = s.topics.get(name)
        if topic is None or not topic.subscribed or peer.peer_id in topic.mesh:
            return  # an answer about topics we do not have would only help to probe us
        if s.backoffs.active((name, peer.peer_id), now):
            s.counters["grafts_in_backoff"] += 1
            s.punish(peer, s.score_params.graft_in_backoff, now)
            self._refuse(peer, name, now)
        elif s.score(peer, now) < 0:
            self._refuse(peer, name, now)
        elif len(topic.mesh) >= self._p.d_high and not peer.outbound:
            # Peers that we dialled may exceed D_high: otherwise a crowd that dials us could shut them out.
            self._refuse(peer, name, now, self._others(peer, topic, now))
        else:
            s.graft(peer, topic, now)

    def on_prune(self, peer: Peer, prune: Prune, now: float) -> None:
        s = self._s
        topic = s.topics.get(prune.topic)
        if topic is None:
            return
        # None at all would let it GRAFT and PRUNE us in a circle, with new peers to turn to each time.
        s.backoffs.set((topic.name, peer.peer_id), now + (prune.backoff or self._p.prune_backoff))
        meshed = peer.peer_id in topic.mesh
        if meshed:
            s.ungraft(peer, topic)
        if prune.peers:
            s.counters["px_offered"] += len(prune.peers)
            if meshed and self._p.peer_exchange and s.score(peer, now) >= s.score_params.accept_px_threshold:
                s.px_offers.append(PxOffer(peer.peer_id, topic.name, prune.peers))
            else:
                s.counters["px_ignored"] += len(prune.peers)

    def _refuse(self, peer: Peer, topic: str, now: float, others: tuple[PeerInfo, ...] = ()) -> None:
        self._s.counters["grafts_refused"] += 1
        self._s.send_prune(peer, topic, self._p.prune_backoff, now, others)

    def _others(self, peer: Peer, topic: Topic, now: float) -> tuple[PeerInfo, ...]:
        """Peers to suggest when we turn a peer away."""
        if not self._p.peer_exchange:
            return ()
        s = self._s
        subscribers = s.subscribers_of(topic.name)
        return peers_to_offer(peer, subscribers, lambda one: s.score(one, now), self._p.prune_peers, s.rng)

    # -- upkeep -----------------------------------------------------------------------------------------

    def maintain(self, topic: Topic, now: float) -> None:
        """One heartbeat of a subscribed topic."""
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
        """Choose the peers to PRUNE so that D remain: the best D_score stay, the others are drawn by lot, at
        least D_out of them outbound (GossipSub v1.1, mesh maintenance)."""
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
            # Swap in an outbound peer for the last inbound one that was to stay.
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

    # -- fan-out: publishing on topics we are not subscribed to, when flood publish is off ----------------

    def fanout_for(self, topic: str, now: float) -> Iterable[Peer]:
        """The peers to publish to, chosen on first use and then kept."""
        fanout = self._s.fanout.setdefault(topic, {})
        self._s.fanout_used[topic] = now
        self._fill_fanout(topic, fanout, now)
        return fanout.values()

    def maintain_fanout(self, now: float) -> None:
        s = self._s
        for topic in [t for t, used in s.fanout_used.items() if used + self._p.fanout_ttl <= now]:
            del s.fanout[topic], s.fanout_used[topic]
        for topic, fanout in s.fanout.items():
            for peer in [peer for peer in fanout.values() if not self._publishable(peer, now)]:
                del fanout[peer.peer_id]
            self._fill_fanout(topic, fanout, now)

    def _fill_fanout(self, topic: str, fanout: dict[str, Peer], now: float) -> None:
        count = self._p.d - len(fanout)
        if count <= 0:
            return
        candidates = [
            peer
            for peer in self._s.subscribers_of(topic)
            if peer.peer_id not in fanout and self._publishable(peer, now)
        ]
        for peer in self._s.rng.sample(candidates, min(count, len(candidates))):
            fanout[peer.peer_id] = peer

    def _publishable(self, peer: Peer, now: float) -> bool:
        return self._s.score(peer, now) >= self._s.score_params.publish_threshold
