"""The peer book: one record per peer, with every change notified."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from ipc_schema.kernel.records import PeerChange, PeerRecord
from kernel_proc.p2p.api import Direction, PeerConnection, PeerIdentity
from kernel_proc.peers.connected_peers import MAX_AGENTS, PeerBook
from kernel_proc.relay.scores import ScoreParts
from kernel_proc.relay.service import RelayService


class Relay:
    def subscriptions(self) -> Sequence[str]:
        return ["/waku/2/rs/1/1", "/waku/2/rs/1/2"]

    def mesh_peers(self, topic: str) -> Sequence[str]:
        return ["a"] if topic == "/waku/2/rs/1/1" else []

    def score(self, peer_id: str) -> ScoreParts | None:
        return ScoreParts(1.23456, 0.0, 0.0, 0.0, 0.0, 0.0) if peer_id == "a" else None


class House:
    def __init__(self) -> None:
        self.now = 100.0
        self.notified: list[tuple[PeerChange, PeerRecord]] = []
        self.book = PeerBook(lambda: self.now, lambda change, record: self.notified.append((change, record)))

    def connect(self, peer_id: str, direction: Direction = Direction.INBOUND) -> None:
        self.book.peer_connected(
            PeerConnection(peer_id, "/ip4/127.0.0.1/tcp/1", "127.0.0.1", direction, self.now)
        )

    def identify(self, peer_id: str, agent: str = "agent", protocols: tuple[str, ...] = ("/relay",)) -> None:
        self.book.peer_identified(PeerIdentity(peer_id, agent, protocols, (), None))

    def changes(self) -> list[str]:
        return [str(change) for change, _ in self.notified]


def test_a_peers_life() -> None:
    house = House()
    house.book.relay = cast("RelayService", Relay())
    house.book.set_origin("a", "static")
    house.connect("a", Direction.OUTBOUND)
    house.identify("a")
    house.identify("a")  # nothing new
    house.book.set_metadata("a", 1, [2, 1, 2])
    house.book.set_metadata("a", 1, [1, 2])
    house.now = 101.5
    assert house.book.record("a") == PeerRecord(
        peer_id="a",
        address="/ip4/127.0.0.1/tcp/1",
        direction="outbound",
        connected_ms=1500,
        agent="agent",
        protocols=("/relay",),
        cluster=1,
        shards=(1, 2),
        origin="static",
        score=1.235,
        mesh=("/waku/2/rs/1/1",),
    )
    house.book.peer_disconnected("a", "reason")
    assert house.changes() == ["joined", "changed", "changed", "left"]
    assert house.notified[-1][1].cluster == 1
    assert house.book.record("a") is None
    house.connect("a")
    assert house.notified[-1][1].origin == "static"


def test_the_first_origin_holds_and_ends_with_the_connection() -> None:
    house = House()
    house.connect("b")
    assert house.notified[-1][1].origin == "inbound"
    house.book.set_origin("b", "api")
    house.book.set_origin("b", "discv5")
    assert house.notified[-1][1].origin == "api"
    assert house.changes() == ["joined", "changed"]
    house.book.peer_disconnected("b", "")
    house.connect("b")
    assert house.notified[-1][1].origin == "inbound"


def test_the_operators_word_comes_before_others() -> None:
    house = House()
    house.connect("b")
    house.book.set_origin("b", "api")
    house.book.set_origin("b", "static")
    house.book.set_origin("b", "api")
    assert house.notified[-1][1].origin == "static"
    house.book.peer_disconnected("b", "")
    house.connect("b")
    assert house.notified[-1][1].origin == "static"


def test_unknown_peers_cause_no_notification() -> None:
    house = House()
    house.identify("x")
    house.book.set_metadata("x", 1, [1])
    house.book.peer_disconnected("x", "")
    assert house.notified == []
    assert house.book.records() == []


def test_what_peers_say_is_bounded() -> None:
    house = House()
    house.connect("a")
    house.identify("a", "x" * 10_000, tuple(f"/{number}" + "p" * 1000 for number in range(500)))
    house.book.set_metadata("a", 1, range(5000))
    record = house.book.record("a")
    assert record is not None
    assert len(record.agent) == 256
    assert len(record.protocols) == 64
    assert max(map(len, record.protocols)) == 256
    assert len(record.shards) == 1024


def test_metrics() -> None:
    house = House()
    for number in range(MAX_AGENTS + 5):
        house.connect(str(number))
        house.identify(str(number), f"agent-{number}")
    samples = list(house.book.samples(["/relay", "/store"]))
    assert ("connected_peers", {"direction": "inbound", "protocol": "/relay"}, MAX_AGENTS + 5) in samples
    agents = [labels["agent"] for name, labels, _ in samples if name == "connected_peers_per_agent"]
    assert len(agents) == MAX_AGENTS + 1
    assert ("connected_peers_per_agent", {"agent": "other"}, 5) in samples
