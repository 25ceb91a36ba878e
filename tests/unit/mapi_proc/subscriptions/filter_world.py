"""A kernel and its filter peers as the filter plan sees them: pure, on a clock of its own."""

from __future__ import annotations

from dataclasses import dataclass, field

from ipc_schema.kernel.records import PeerRecord
from mapi_proc.peers import FILTER, ServicePeers
from mapi_proc.subscriptions.filter_plan import FilterPlan
from mapi_proc.subscriptions.filter_state import Action, Audit, Leave, Subscribe, Unsubscribe

SHARDS = 3


@dataclass(slots=True)
class Peer:
    """One filter service."""

    connected: bool = True
    refuses: bool = False
    capacity: int = 10_000
    """Content topics that it takes of us, on all shards."""


@dataclass
class World:
    """`plan` works against this kernel; tests say what happens to it, and when its answers come."""

    now: float = 0.0
    peers: dict[str, Peer] = field(default_factory=dict)
    wanted: dict[int, set[str]] = field(default_factory=dict)
    held: dict[int, dict[str, set[str]]] = field(default_factory=dict)
    wishes: dict[int, set[str]] = field(default_factory=dict)
    instance: int = 1
    up: bool = True
    under_way: list[Action] = field(default_factory=list)
    log: list[Action] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.known = ServicePeers(lambda: self.now, lambda: 0.5)
        self.plan = FilterPlan(self.known, lambda: self.now)
        self.plan.kernel_up()

    # -- what happens ------------------------------------------------------------------------------------

    def add_peer(self, name: str, peer: Peer | None = None) -> Peer:
        self.peers[name] = peer or Peer()
        self.list_peers()
        return self.peers[name]

    def lose_peer(self, name: str) -> None:
        """It disconnects."""
        self.peers[name].connected = False
        self.forget(name)
        self.list_peers()

    def forget(self, name: str) -> None:
        """The kernel finds out that the peer holds nothing any more, and says so by its count alone."""
        for holders in self.held.values():
            holders.pop(name, None)
        self.count()

    def list_peers(self) -> None:
        self.known.update(
            PeerRecord(peer_id=name, protocols=FILTER) for name, peer in self.peers.items() if peer.connected
        )
        self.plan.peers_changed()

    def want(self, shard: int, topics: set[str]) -> None:
        """Apps want these of a shard; none: its lease is given up."""
        if topics:
            self.wanted[shard] = topics
        else:
            for mine in (self.wanted, self.held, self.wishes):
                mine.pop(shard, None)
        self.plan.want(self.wanted)
        self.lease()

    def lease(self) -> None:
        if self.up:
            for shard in self.wanted:
                self.plan.leased(shard, bytes([self.instance]), b"epoch")

    def restart_mapi(self) -> None:
        """MAPI dies and comes back under its name; the kernel keeps what it has for it."""
        self.under_way.clear()
        self.plan = FilterPlan(self.known, lambda: self.now)
        self.plan.kernel_up()
        self.plan.want(self.wanted)
        self.lease()
        self.count()

    def go_down(self) -> None:
        """The kernel does not answer."""
        self.up = False
        self.plan.kernel_down()
        for action in self.under_way:
            self.plan.failed(action, blame=False)
        self.under_way.clear()

    def come_back(self, *, restarted: bool) -> None:
        self.up = True
        if restarted:
            self.instance += 1
            self.held.clear()
            self.wishes.clear()
        self.plan.kernel_up()
        self.lease()
        self.count()

    def count(self) -> None:
        """The kernel's health."""
        if self.up:
            self.plan.counted({shard: self.strength(shard) for shard in range(SHARDS)})

    def strength(self, shard: int) -> int:
        held = self.held.get(shard, {}).values()
        wishes = self.wishes.get(shard, set())
        return min((sum(topic in topics for topics in held) for topic in wishes), default=0)

    # -- what the plan asks for --------------------------------------------------------------------------

    def step(self) -> list[Action]:
        """Let the plan decide."""
        actions = self.plan.decide()
        self.under_way += actions
        self.log += actions
        return actions

    def answer(self, action: Action) -> None:
        """The kernel answers one request."""
        self.under_way.remove(action)
        match action:
            case Audit():
                self.plan.held(self.held)
            case Subscribe(shard=shard, peer=name, topics=topics):
                peer = self.peers[name]
                mine = self.held.setdefault(shard, {}).get(name, set())
                load = sum(len(holders.get(name, ())) for holders in self.held.values())
                full = load + len(set(topics) - mine) > peer.capacity
                if peer.refuses or full or not peer.connected or shard not in self.wanted:
                    self.plan.failed(action, blame=shard in self.wanted)
                    return
                self.held[shard].setdefault(name, set()).update(topics)
                self.wishes.setdefault(shard, set()).update(topics)
                self.plan.held(self.held, (shard,))
            case Unsubscribe(shard=shard, peer=name, topics=topics):
                self._release(shard, set(topics), name)
                self.plan.held(self.held)
            case Leave(shard=shard, topics=topics):
                self._release(shard, set(topics) or set(self.wishes.get(shard, ())), None)
                self.plan.held(self.held)
        self.plan.done(action)
        self.count()

    def _release(self, shard: int, topics: set[str], name: str | None) -> None:
        holders = self.held.get(shard, {})
        for peer in list(holders):
            if name is None or peer == name:
                holders[peer] -= topics
                if not holders[peer]:
                    del holders[peer]
        kept = set().union(*holders.values()) if name is not None else set()
        wishes = self.wishes.get(shard)
        if wishes is not None:
            wishes -= topics - kept

    def run(self, seconds: float) -> None:
        """Answer everything at once, for so long."""
        end = self.now + seconds
        for action in list(self.under_way):
            self.answer(action)
        for _ in range(10_000):
            actions = self.step()
            for action in actions:
                self.answer(action)
            if actions:
                continue
            due = self.plan.wake_at()
            if due is None or due > end:
                self.now = end
                return
            self.now = max(self.now, due) + 1e-6
        raise AssertionError("it does not come to rest")

    # -- what should be ----------------------------------------------------------------------------------

    def holders(self, shard: int, topic: str) -> list[str]:
        return [name for name, topics in self.held.get(shard, {}).items() if topic in topics]

    def able(self) -> int:
        return sum(peer.connected and not peer.refuses for peer in self.peers.values())

    def check_settled(self) -> None:
        """Wanted is held, by as many as should, and nothing else is."""
        expected = min(2, self.able())
        for shard, topics in self.wanted.items():
            for topic in topics:
                assert len(self.holders(shard, topic)) == expected, (shard, topic)
            held = set().union(*self.held.get(shard, {}).values())
            assert held == (topics if expected else set())
            if expected:
                assert self.wishes.get(shard, set()) == topics
                assert self.plan.strength(shard) == expected
                assert not self.plan.exposed(shard)
