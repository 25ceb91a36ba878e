"""The GossipSub router as a state machine: no I/O, no clock, no tasks.

The shell reports events (peers, subscriptions, control, message ids, heartbeats), each with the current time,
and collects the output with `take_pending`. Messages take a short path: `screen` returns whether a copy is
new, `accept` the peers to forward it to. Apart from the forwarding itself, the cost per message does not grow
with the number of peers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random
from typing import Final, NamedTuple

from kernel_proc.relay.cache import CachedMessage
from kernel_proc.relay.gossip import Gossip
from kernel_proc.relay.mesh import Mesh
from kernel_proc.relay.params import GossipParams, ScoreParams
from kernel_proc.relay.rpc import Control, PeerInfo, Subscription
from kernel_proc.relay.scores import ScoreParts
from kernel_proc.relay.state import OutgoingRpc, Peer, PxOffer, RouterState, Topic
from kernel_proc.relay.traffic import TrafficBook

_new_tuple: Final = tuple.__new__

_CONFIRM_WITHIN: Final = 10.0
"""Seconds a peer has to repeat its subscriptions after replacing its stream."""


class PublishPlan(NamedTuple):
    message: CachedMessage
    targets: Sequence[str]
    duplicate: bool
    """The message was seen before. Unless forced, there are no targets."""


class Router:
    """GossipSub v1.1 for Waku relay. All times are seconds of one monotonic clock."""

    def __init__(self, gossip: GossipParams, score: ScoreParams, rng: Random) -> None:
        self._s = RouterState(gossip, score, rng)
        self._mesh = Mesh(self._s)
        self._gossip = Gossip(self._s)
        self._tick = 0
        self._idontwant_above = gossip.idontwant_threshold

    # -- peers ------------------------------------------------------------------------------------------

    def add_peer(self, peer_id: str, ip: str, now: float, *, outbound: bool) -> None:
        """Add a connected peer that speaks relay. No-op if it is known."""
        s = self._s
        if peer_id not in s.peers:
            peer = s.peers[peer_id] = Peer(peer_id, outbound, s.scores.connect(peer_id, ip))
            s.update_graylisted(peer, now)  # it may return with a retained negative score

    def remove_peer(self, peer_id: str, now: float) -> None:
        """Remove a disconnected peer. Its back-offs and a negative score are kept."""
        s = self._s
        peer = s.peers.pop(peer_id, None)
        if peer is None:
            return
        for name in list(peer.topics):
            self._unsubscribed(peer, name)
        for topic in s.topics.values():  # it may have sent GRAFT without subscribing
            if peer_id in topic.mesh:
                s.ungraft(peer, topic)
        s.link_loss_backoffs.set(peer_id, now + s.params.link_loss_backoff)
        s.scores.disconnect(peer_id, now)
        s.promises.forget_peer(peer_id)
        s.pending.pop(peer_id, None)

    def describe_peer(
        self, peer_id: str, info: PeerInfo | None, *, same_implementation: bool, now: float
    ) -> None:
        """Apply identify: the peer info to share in PX (None: do not share), and whether it runs this
        implementation."""
        peer = self._s.peers.get(peer_id)
        if peer is None:
            return
        peer.info = info
        just_identified = same_implementation and not peer.same_implementation
        peer.same_implementation = same_implementation
        if just_identified:  # it may have subscribed before identify completed
            for name in peer.topics:
                topic = self._s.topics.get(name)
                if topic is not None and topic.subscribed and len(topic.mesh) < self._s.params.d_low:
                    self._mesh.maintain(topic, now)

    def was_linked(self, peer_id: str, age: float, now: float) -> None:
        """Record that the previous run of this node was connected to the peer until `age` seconds ago."""
        self._s.link_loss_backoffs.set(peer_id, now - age + self._s.params.link_loss_backoff)

    def stream_lost(self, peer_id: str, now: float) -> None:
        """Record that a relay stream of a connected peer ended, in either direction."""
        peer = self._s.peers.get(peer_id)
        if peer is not None and not peer.same_implementation:
            self._s.link_loss_backoffs.set(peer_id, now + self._s.params.link_loss_backoff)
            self._mesh.link_lost(peer)

    def peer(self, peer_id: str) -> Peer | None:
        return self._s.peers.get(peer_id)

    def hello(self, peer_id: str, now: float) -> OutgoingRpc:
        """Return what a new stream starts with: all our subscriptions, and a GRAFT per mesh the peer is in.

        No GRAFT after a lost link: nim-libp2p penalises it (see `GossipParams.link_loss_backoff`).
        """
        hello = OutgoingRpc()
        peer = self._s.peers.get(peer_id)
        may_graft = peer is not None and self._s.may_graft(peer, now)
        for topic in self._s.topics.values():
            if topic.subscribed:
                hello.subscriptions.append(Subscription(True, topic.name))
                if may_graft and peer_id in topic.mesh:
                    hello.control.graft.append(topic.name)
        return hello

    def stream_replaced(self, peer_id: str, now: float) -> None:
        """Record that the peer opened a new stream to us.

        Subscriptions that it does not repeat within `_CONFIRM_WITHIN` seconds are removed: pubsub has no
        other way to notice an unsubscribe that was lost with the old stream.
        """
        peer = self._s.peers.get(peer_id)
        if peer is not None and peer.topics:
            peer.unconfirmed = set(peer.topics)
            peer.unconfirmed_until = now + _CONFIRM_WITHIN

    def malformed(self, peer_id: str, now: float) -> None:
        """Penalise a peer for bytes that do not parse as an RPC."""
        peer = self._s.peers.get(peer_id)
        if peer is not None:
            self._s.penalise(peer, self._s.score_params.malformed_rpc, now)

    # -- topics -----------------------------------------------------------------------------------------

    def subscribe(self, name: str, now: float) -> bool:
        """Subscribe to a topic. Return False if already subscribed."""
        s = self._s
        topic = s.topics.get(name)
        if topic is None:
            topic = s.new_topic(name, now)
        elif topic.subscribed:
            return False
        topic.subscribed = True
        s.by_raw[topic.raw] = topic
        for peer in s.peers.values():
            s.outgoing(peer).subscriptions.append(Subscription(True, name))
        self._mesh.join(topic, now)
        s.changed.add(name)
        return True

    def unsubscribe(self, name: str, now: float) -> bool:
        """Unsubscribe from a topic. Return False if not subscribed. The seen cache is kept until it
        expires."""
        s = self._s
        topic = s.topics.get(name)
        if topic is None or not topic.subscribed:
            return False
        self._mesh.leave(topic, now)
        topic.subscribed = False
        del s.by_raw[topic.raw]
        for peer in s.peers.values():
            s.outgoing(peer).subscriptions.append(Subscription(False, name))
        s.changed.add(name)
        return True

    def subscriptions(self) -> list[str]:
        return [topic.name for topic in self._s.topics.values() if topic.subscribed]

    def topic_of(self, raw: bytes) -> Topic | None:
        """Return the subscribed topic with these UTF-8 bytes as its name."""
        return self._s.by_raw.get(raw)

    # -- control ----------------------------------------------------------------------------------------

    def on_subscriptions(self, peer: Peer, subscriptions: Iterable[Subscription], now: float) -> None:
        s = self._s
        wanting: dict[str, Topic] = {}
        for subscribe, name in subscriptions:
            peer.unconfirmed.discard(name)
            if not subscribe:
                if name in peer.topics:
                    self._unsubscribed(peer, name)
            elif name not in peer.topics:
                if len(peer.topics) >= s.params.max_topics_per_peer:
                    s.counters["topics_over_limit"] += 1
                    continue
                peer.topics.add(name)
                s.subscribers.setdefault(name, {})[peer.peer_id] = peer
                s.changed.add(name)
                topic = s.topics.get(name)
                if topic is not None and topic.subscribed and len(topic.mesh) < s.params.d_low:
                    wanting[name] = topic
        for topic in wanting.values():  # a mesh short of peers need not wait for the heartbeat
            self._mesh.maintain(topic, now)

    def on_control(self, peer: Peer, control: Control, now: float) -> None:
        for name in control.graft:
            self._mesh.on_graft(peer, name, now)
        for prune in control.prune:
            self._mesh.on_prune(peer, prune, now)
        # The budget counts RPCs with IHAVE, not IHAVE entries, as the other implementations do.
        peer.ihave_count += bool(control.ihave)
        for ihave in control.ihave:
            self._gossip.on_ihave(peer, ihave, now)
        if control.iwant:
            self._gossip.on_iwant(peer, control.iwant, now)
        if control.idontwant:
            self._gossip.on_idontwant(peer, control.idontwant)

    def _unsubscribed(self, peer: Peer, name: str) -> None:
        s = self._s
        peer.topics.discard(name)
        subscribers = s.subscribers.get(name)
        if subscribers is not None:
            subscribers.pop(peer.peer_id, None)
            if not subscribers:
                del s.subscribers[name]
        topic = s.topics.get(name)
        if topic is not None and peer.peer_id in topic.mesh:
            s.ungraft(peer, topic)
        s.changed.add(name)

    # -- messages ---------------------------------------------------------------------------------------

    def screen(self, topic: Topic, message_id: bytes) -> bool:
        """Return whether a received copy is new. It only counts as seen once it is accepted."""
        # Any copy keeps the promise, even one that turns out to be invalid (gossipsub-v1.1, P7).
        self._s.promises.arrived(message_id)
        return message_id not in topic.seen

    def accept(
        self, source: Peer | None, topic: Topic, message_id: bytes, data: bytes, now: float
    ) -> tuple[CachedMessage, list[str]]:
        """Record a valid new message. Return it with the peers to forward it to."""
        s = self._s
        topic.seen.add(message_id, now)
        message = s.cache.put(topic.raw, topic.name, message_id, data)
        source_id = None
        if source is not None:
            s.scores.delivered_first(source.score, topic.name)
            source_id = source.peer_id
        # Announce before the forward is written: the earlier IDONTWANT arrives, the more copies it saves.
        if len(data) > self._idontwant_above:
            self._gossip.announce(topic, message_id, source_id)
        targets = []
        for peer_id, peer in topic.mesh.items():
            if peer_id == source_id:
                continue
            if peer.wants(message_id):
                targets.append(peer_id)
            else:
                s.counters["idontwant_saved"] += 1
        topic.traffic.net_in += len(data)
        if targets:
            topic.traffic.sent(len(data), len(targets))
        return message, targets

    def reject(self, source: Peer, topic: Topic, now: float) -> None:
        """Penalise the peer that forwarded an invalid message (P4)."""
        self._s.scores.delivered_invalid(source.score, topic.name)
        self._s.update_graylisted(source, now)

    def publish(self, name: str, message_id: bytes, data: bytes, now: float, *, force: bool) -> PublishPlan:
        """Choose the recipients of our own message.

        Every peer of the topic above the publish threshold (gossipsub-v1.1, Flood Publishing), which needs no
        fanout; without flood publishing the mesh, on a topic that we are subscribed to.
        """
        s = self._s
        topic = s.topics.get(name)
        if topic is None:
            topic = s.new_topic(name, now)
        # A republish within the seen TTL would be dropped by every peer's seen cache; `force` skips ours
        # only.
        duplicate = message_id in topic.seen
        cached = s.cache.get(message_id)
        if duplicate and not force:
            known = cached or CachedMessage(topic.raw, name, message_id, data, 0)
            return PublishPlan(known, (), duplicate=True)
        topic.seen.add(message_id, now)
        message = s.cache.put(topic.raw, name, message_id, data)
        meshed = topic.subscribed and not s.params.flood_publish
        candidates = topic.mesh.values() if meshed else s.subscribers_of(name)
        threshold, scores = s.score_params.publish_threshold, s.scores
        targets = [peer.peer_id for peer in candidates if scores.at_least(peer.score, threshold, now)]
        return _new_tuple(PublishPlan, (message, targets, duplicate))

    # -- time -------------------------------------------------------------------------------------------

    def heartbeat(self, now: float) -> None:
        """Run one heartbeat: scores, budgets, meshes, gossip, cache windows, expiries."""
        s = self._s
        self._tick += 1
        s.scores.tick(now)
        self._gossip.heartbeat(self._tick, now)
        for peer in s.peers.values():
            s.update_graylisted(peer, now)
            if peer.unconfirmed and now >= peer.unconfirmed_until:
                for name in peer.unconfirmed:
                    self._unsubscribed(peer, name)
                peer.unconfirmed = set()
        for topic in list(s.topics.values()):
            topic.seen.expire(now)
            if topic.subscribed:
                self._mesh.maintain(topic, now)
                self._gossip.emit_beside_mesh(topic, now)
            elif not len(topic.seen):
                del s.topics[topic.name]
        s.cache.shift()
        s.backoffs.expire(now, s.params.backoff_slack)
        s.link_loss_backoffs.expire(now)

    # -- output -----------------------------------------------------------------------------------------

    def take_pending(self) -> dict[str, OutgoingRpc]:
        """Return and clear the pending output by peer."""
        pending = self._s.pending
        if pending:
            self._s.pending = {}
        return pending

    def take_changed(self) -> set[str]:
        changed = self._s.changed
        if changed:
            self._s.changed = set()
        return changed

    def take_bad_peers(self) -> list[str]:
        bad = self._s.bad_peers
        if bad:
            self._s.bad_peers = []
        return bad

    def take_px_offers(self) -> list[PxOffer]:
        offers = self._s.px_offers
        if offers:
            self._s.px_offers = []
        return offers

    # -- inspection -------------------------------------------------------------------------------------

    def mesh_peers(self, topic: str) -> list[str]:
        entry = self._s.topics.get(topic)
        return [] if entry is None else list(entry.mesh)

    def topic_peers(self, topic: str) -> list[str]:
        return list(self._s.subscribers.get(topic, ()))

    def peers(self) -> list[str]:
        return list(self._s.peers)

    def score_parts(self, peer_id: str, now: float) -> ScoreParts | None:
        peer = self._s.peers.get(peer_id)
        return None if peer is None else self._s.scores.parts(peer.score, now)

    @property
    def traffic(self) -> TrafficBook:
        """Bytes of messages by topic."""
        return self._s.traffic

    def counters(self) -> dict[str, int]:
        s = self._s
        return {
            **s.counters,
            "cache_messages": len(s.cache),
            "cache_bytes": s.cache.bytes,
            "cache_evicted": s.cache.evicted,
            "seen_ids": sum(len(topic.seen) for topic in s.topics.values()),
            "seen_early_turns": sum(topic.seen.early_turns for topic in s.topics.values()),
            "backoffs": len(s.backoffs),
            "link_loss_backoffs": len(s.link_loss_backoffs),
        }
