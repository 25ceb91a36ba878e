"""A router with a clock of its own, for the tests of the core."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from hashlib import sha256
from random import Random
from typing import Any

from kernel_proc.relay.params import GossipParams, ScoreParams
from kernel_proc.relay.router import PublishPlan, Router
from kernel_proc.relay.rpc import Control, IHave, Prune, Subscription
from kernel_proc.relay.state import OutgoingRpc, Peer, Topic

T = "/waku/2/rs/42/0"
U = "/waku/2/rs/42/1"


class Core:
    """The router, the time, and what it wanted to send since the last look."""

    def __init__(self, *, seed: int = 1, score: ScoreParams | None = None, **gossip: Any) -> None:
        self.now = 1000.0
        self.score_params = score or ScoreParams()
        self.params = replace(GossipParams(), **gossip)
        self.router = Router(self.params, self.score_params, Random(seed))

    def peers(self, count: int, *topics: str, outbound: bool = False, first: int = 0) -> list[Peer]:
        """Connected peers p0, p1, … subscribed to `topics`, each with an address of its own."""
        added = []
        for n in range(first, first + count):
            name = f"p{n}"
            self.router.add_peer(name, f"10.0.{n // 250}.{n % 250}", self.now, outbound=outbound)
            added.append(self.peer(name))
            if topics:
                self.subscribed(name, *topics)
        return added

    def peer(self, name: str) -> Peer:
        peer = self.router.peer(name)
        assert peer is not None
        return peer

    def topic(self, name: str = T) -> Topic:
        topic = self.router.topic_of(name.encode())
        assert topic is not None
        return topic

    def subscribed(self, name: str, *topics: str) -> None:
        self.router.on_subscriptions(self.peer(name), [Subscription(True, t) for t in topics], self.now)

    def gets(self, name: str, **control: Any) -> None:
        """Peer `name` sends a control message."""
        message = Control()
        for field, value in control.items():
            setattr(message, field, value)
        self.router.on_control(self.peer(name), message, self.now)

    def ihave(self, name: str, ids: Iterable[bytes], topic: str = T) -> None:
        self.gets(name, ihave=[IHave(topic, list(ids))])

    def prunes(self, name: str, backoff: int | None = 60, topic: str = T) -> None:
        self.gets(name, prune=[Prune(topic, backoff)])

    def receive(self, name: str, data: bytes, topic: str = T) -> list[str] | None:
        """A valid message comes from a peer: the peers it is forwarded to, or None for a duplicate."""
        message_id = sha256(data).digest()
        entry = self.topic(topic)
        if not self.router.screen(entry, message_id):
            return None
        return self.router.accept(self.peer(name), entry, message_id, data, self.now)[1]

    def publish(self, data: bytes, topic: str = T, *, force: bool = False) -> PublishPlan:
        return self.router.publish(topic, sha256(data).digest(), data, self.now, force=force)

    def beat(self, count: int = 1) -> None:
        for _ in range(count):
            self.now += self.params.heartbeat_interval
            self.router.heartbeat(self.now)

    def sent(self) -> dict[str, OutgoingRpc]:
        return self.router.take_pending()

    def sent_to(self, pick: Callable[[Control], Any]) -> dict[str, Any]:
        """One part of the control sent since the last look, by peer, where there is any."""
        return {peer: pick(out.control) for peer, out in self.sent().items() if pick(out.control)}

    def mesh(self, topic: str = T) -> set[str]:
        return set(self.router.mesh_peers(topic))

    def score(self, name: str) -> float:
        parts = self.router.score_parts(name, self.now)
        assert parts is not None
        return parts.total
