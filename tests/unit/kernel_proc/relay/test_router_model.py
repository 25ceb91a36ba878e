"""Random lives of a router: whatever peers do, its own rules hold."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kernel_proc.relay.rpc import Subscription
from tests.unit.kernel_proc.relay.core import Core, T, U

PEERS = st.integers(0, 14).map(lambda n: f"p{n}")
TOPICS = st.sampled_from([T, U])


class RouterLife(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.core = Core(seed=3)
        self.released: dict[tuple[str, str], float] = {}
        """End of the back-off that each peer asked for."""
        self.count = 0

    def connected(self, name: str) -> bool:
        return self.core.router.peer(name) is not None

    @rule(name=PEERS, outbound=st.booleans())
    def connect(self, name: str, outbound: bool) -> None:
        self.core.router.add_peer(name, "10.0.0." + name[1:], self.core.now, outbound=outbound)

    @rule(name=PEERS)
    def disconnect(self, name: str) -> None:
        self.core.router.remove_peer(name, self.core.now)

    @rule(topic=TOPICS)
    def subscribe(self, topic: str) -> None:
        self.core.router.subscribe(topic, self.core.now)

    @rule(topic=TOPICS)
    def unsubscribe(self, topic: str) -> None:
        self.core.router.unsubscribe(topic, self.core.now)

    @rule(name=PEERS, topic=TOPICS, subscribe=st.booleans())
    def peer_subscribes(self, name: str, topic: str, subscribe: bool) -> None:
        if self.connected(name):
            subscription = [Subscription(subscribe, topic)]
            self.core.router.on_subscriptions(self.core.peer(name), subscription, self.core.now)

    @rule(name=PEERS, topic=TOPICS)
    def peer_grafts(self, name: str, topic: str) -> None:
        if self.connected(name):
            self.core.gets(name, graft=[topic])

    @rule(name=PEERS, topic=TOPICS, backoff=st.integers(0, 90))
    def peer_prunes(self, name: str, topic: str, backoff: int) -> None:
        if self.connected(name):
            self.check()
            known = topic in self.core.router._s.topics
            self.core.prunes(name, backoff, topic)
            if known:
                until = self.core.now + backoff
                self.released[topic, name] = max(until, self.released.get((topic, name), 0.0))

    @rule(name=PEERS, topic=TOPICS)
    def peer_sends(self, name: str, topic: str) -> None:
        if self.connected(name) and self.core.router.topic_of(topic.encode()):
            self.count += 1
            targets = self.core.receive(name, b"%d" % self.count, topic)
            assert targets is not None
            assert name not in targets
            assert set(targets) <= self.core.mesh(topic)

    @rule(name=PEERS)
    def peer_sends_rubbish(self, name: str) -> None:
        topic = self.core.router.topic_of(T.encode())
        if self.connected(name) and topic is not None:
            self.core.router.reject(self.core.peer(name), topic, self.core.now)

    @rule(beats=st.integers(1, 30))
    def time_passes(self, beats: int) -> None:
        self.check()
        self.core.beat(beats)
        for topic in (T, U):
            mesh = [self.core.peer(name) for name in self.core.mesh(topic)]
            assert all(self.core.score(peer.peer_id) >= 0 for peer in mesh)
            assert len(mesh) <= self.core.params.d_high + self.core.params.d_out

    @invariant()
    def check(self) -> None:
        router = self.core.router
        for topic in (T, U):
            for name in self.core.mesh(topic):
                assert self.connected(name)
            if self.core.mesh(topic):
                assert router.topic_of(topic.encode()) is not None
            for name in router.topic_peers(topic):
                assert topic in self.core.peer(name).topics
        for name, outgoing in self.core.sent().items():
            assert self.connected(name)
            for topic in outgoing.control.graft:
                assert self.core.now >= self.released.get((topic, name), 0.0)


RouterLife.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
test_router_life = RouterLife.TestCase
