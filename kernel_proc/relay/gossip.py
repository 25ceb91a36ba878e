"""Lazy push: IHAVE and IWANT with their budgets (GossipSub v1.0, v1.1), and IDONTWANT (v1.2)."""

from __future__ import annotations

from collections.abc import Sequence

from kernel_proc.relay.rpc import IHave
from kernel_proc.relay.state import Peer, RouterState, Topic


class Gossip:
    """The gossip half of the router core."""

    def __init__(self, state: RouterState) -> None:
        self._s = state
        self._p = state.params

    def _trusted(self, peer: Peer, now: float) -> bool:
        return self._s.score(peer, now) >= self._s.score_params.gossip_threshold

    def on_ihave(self, peer: Peer, ihave: IHave, now: float) -> None:
        """Request the unknown ids of an IHAVE, within this heartbeat's budget."""
        s = self._s
        topic = s.topics.get(ihave.topic)
        # IHAVE floods are capped per heartbeat in RPCs and in ids (gossipsub-v1.1, Spam Protection Measures);
        # gossip from peers below the gossip threshold is ignored.
        if (
            peer.ihave_count > self._p.max_ihave_messages
            or peer.asked_ids >= self._p.max_ihave_length
            or topic is None
            or not topic.subscribed
            or not self._trusted(peer, now)
        ):
            s.counters["ihave_ignored"] += 1
            return
        offered = ihave.message_ids[: self._p.max_ihave_length]
        wanted = [
            i for i in dict.fromkeys(offered) if i not in topic.seen and not s.promises.is_asked(i, now)
        ]
        room = self._p.max_ihave_length - peer.asked_ids
        if len(wanted) > room:
            # A random sample, so that a peer cannot choose which ids exhaust the budget.
            wanted = s.rng.sample(wanted, room)
        if not wanted:
            return
        peer.asked_ids += len(wanted)
        s.counters["iwant_sent"] += len(wanted)
        s.promises.ask(peer.peer_id, wanted, now, s.rng)
        s.outgoing(peer).control.iwant.extend(wanted)

    def on_iwant(self, peer: Peer, ids: Sequence[bytes], now: float) -> None:
        """Serve cached messages, limited per message and peer (`iwant_retransmissions`) and in bytes per
        heartbeat."""
        # gossipsub-v1.1, Spam Protection Measures: without both limits a peer can amplify small IWANTs into
        # large replies.
        if not self._trusted(peer, now):
            self._s.counters["iwant_refused"] += len(ids)
            return
        for message_id in ids:
            message = self._s.cache.get(message_id)
            if message is None:
                continue
            if message.served is None:
                message.served = {}
            times = message.served.get(peer.peer_id, 0)
            size = len(message.data)
            if times >= self._p.iwant_retransmissions or peer.served_bytes + size > self._p.iwant_bytes:
                self._s.counters["iwant_refused"] += 1
                continue
            message.served[peer.peer_id] = times + 1
            peer.served_bytes += size
            self._s.counters["iwant_served"] += 1
            self._s.outgoing(peer).messages.append(message)

    def on_idontwant(self, peer: Peer, ids: Sequence[bytes]) -> None:
        # gossipsub-v1.2: bound what a peer can make us remember.
        room = self._p.max_idontwant - len(peer.dont_want)
        peer.dont_want.update(ids[:room] if room > 0 else ())
        self._s.counters["idontwant_received"] += len(ids)

    def announce(self, topic: Topic, message_id: bytes, source: str | None) -> None:
        """Send IDONTWANT to the mesh: a large message has arrived and need not be sent to us again
        (gossipsub-v1.2)."""
        for peer in topic.mesh.values():
            if peer.peer_id != source:
                self._s.outgoing(peer).control.idontwant.append(message_id)
                self._s.counters["idontwant_sent"] += 1

    def emit_beside_mesh(self, topic: Topic, now: float) -> None:
        """Send IHAVE for recent ids to random peers outside the mesh, and to peers that have just joined it.

        A peer counts on us as soon as it has sent its GRAFT. What we forwarded before the GRAFT arrived would
        never reach it: not as a member of our mesh then, and not by gossip, which leaves the mesh out.
        """
        self.emit(topic.name, topic.mesh, now)
        joined, topic.grafted = topic.grafted, {}
        for peer_id, ids in joined.items():
            if ids and self._trusted(topic.mesh[peer_id], now):
                self._offer(topic.mesh[peer_id], topic.name, ids)

    def emit(self, topic: str, excluded: dict[str, Peer], now: float) -> None:
        """Send IHAVE for recent ids to random peers of the topic outside `excluded`, its mesh."""
        s, p = self._s, self._p
        ids = s.cache.gossip_ids(topic)
        if not ids:
            return
        peers = [
            peer
            for peer in s.subscribers_of(topic)
            if peer.peer_id not in excluded and self._trusted(peer, now)
        ]
        # gossipsub-v1.1, Adaptive Gossip Dissemination: max(D_lazy, gossip factor × eligible peers).
        count = min(len(peers), max(p.d_lazy, int(p.gossip_factor * len(peers))))
        for peer in s.rng.sample(peers, count):
            self._offer(peer, topic, ids)

    def _offer(self, peer: Peer, topic: str, ids: Sequence[bytes]) -> None:
        # Too many ids for one IHAVE: each peer gets its own sample, so that together they cover more.
        limit = self._p.max_ihave_sent
        chosen = ids if len(ids) <= limit else self._s.rng.sample(ids, limit)
        self._s.outgoing(peer).control.ihave.append(IHave(topic, chosen))

    def heartbeat(self, tick: int, now: float) -> None:
        """Reset the budgets, punish broken promises and age IDONTWANT entries."""
        s = self._s
        # P7 (gossipsub-v1.1, Spam Protection Measures): advertising messages without delivering them.
        for peer_id, count in s.promises.broken(now).items():
            s.counters["promises_broken"] += count
            peer = s.peers.get(peer_id)
            if peer is not None:
                s.penalise(peer, count * s.score_params.broken_promise, now)
        turn = tick % self._p.history_gossip == 0
        for peer in s.peers.values():
            peer.ihave_count = peer.asked_ids = peer.served_bytes = 0
            if turn and (peer.dont_want or peer.dont_want_old):
                peer.dont_want_old = peer.dont_want
                peer.dont_want = set()
