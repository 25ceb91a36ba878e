"""How ENRs from the different sources are processed."""

from __future__ import annotations

import logging
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ipc_schema.hello import NetworkInfo
from kernel_proc.discovery.discv5.service import Discv5Service
from kernel_proc.discovery.enr import Enr, sign_record
from kernel_proc.discovery.enr_identity import Identity
from kernel_proc.discovery.enr_values import Capability, RelayShards, encode_shards
from kernel_proc.metrics import Registry
from kernel_proc.p2p.api import Host
from kernel_proc.peering.sources import PeerSources
from kernel_proc.peers.known import PeerFacts, PeerOrigin
from kernel_proc.peers.manager import PeerManager

CLUSTER = 7


class Manager:
    """Records what it learns; peers of other clusters are useless to it."""

    def __init__(self) -> None:
        self.learned: list[tuple[str, str, str]] = []
        self.signs = 0
        self.store: list[Any] = []

    def learn(self, peer_id: str, addresses: Any, origin: PeerOrigin, facts: PeerFacts, source: str) -> bool:
        self.learned.append((peer_id, str(origin), source))
        return bool(addresses) and facts.cluster in (None, CLUSTER)

    def now(self) -> float:
        return 1_800_000_000.0

    def sign_of_life(self) -> None:
        self.signs += 1


class Discv5:
    def __init__(self) -> None:
        self.table: list[Enr] = []
        self.answering: set[bytes] = set()

    def add_record(self, record: Enr) -> None:
        self.table.append(record)

    def has_answered(self, node_id: bytes) -> bool:
        return node_id in self.answering

    def nodes(self) -> list[Any]:
        return [
            SimpleNamespace(record=record, verified=record.node_id in self.answering) for record in self.table
        ]


class House:
    def __init__(self, *connections: tuple[str, str]) -> None:
        self.manager, self.discv5 = Manager(), Discv5()
        live = [SimpleNamespace(peer_id=peer, ip=ip) for peer, ip in connections]
        host = SimpleNamespace(connections=lambda: live, is_connected=lambda _peer: False)
        network = NetworkInfo(cluster=CLUSTER, shard_count=8, max_message_size=150_000)
        self.sources = PeerSources(
            network, cast("Host", host), cast("PeerManager", self.manager), Registry("")
        )
        self.sources.discv5 = cast("Discv5Service", self.discv5)


def record(number: int, ip: str = "8.8.4.4", cluster: int = CLUSTER, *, serves: bool = True) -> Enr:
    key, shards = encode_shards(RelayShards.of(cluster, (0,)))
    pairs = {
        b"ip": bytes(map(int, ip.split("."))),
        b"tcp": (60_000).to_bytes(2, "big"),
        b"udp": (9000).to_bytes(2, "big"),
        key: shards,
    }
    if serves:
        pairs[b"waku2"] = bytes([Capability.RELAY])
    return sign_record(Identity(Random(number).randbytes(32)), 1, pairs)


def test_peer_exchange_fills_the_table_and_the_store_by_source() -> None:
    house = House(("px", "9.9.9.9"))
    good, silent = record(1), record(2, serves=False)
    house.sources.exchanged("px", [good.raw, silent.raw, b"junk", good.raw[:-1]])
    assert house.manager.learned == [(good.peer_id, "peer-exchange", "peer exchange with px")]
    assert house.discv5.table == [good, silent], "who serves nothing may still know others"


@pytest.mark.parametrize(
    ("teller", "private"),
    [("9.9.9.9", False), ("10.0.0.7", True), ("127.0.0.1", True), (None, False)],
)
def test_remote_peers_cannot_direct_us_to_our_own_network(teller: str | None, private: bool) -> None:
    house = House(*([("px", teller)] if teller else []))
    inside, outside = record(1, "10.0.0.9"), record(2)
    house.sources.exchanged("px", [inside.raw, outside.raw])
    assert house.discv5.table == ([inside, outside] if private else [outside])
    assert len(house.manager.learned) == 1 + private


def test_nodes_that_answered_are_distinguished_from_named_ones() -> None:
    house = House()
    named, there = record(1), record(2)
    house.discv5.answering.add(there.node_id)
    house.sources.found(named)
    house.sources.found(there)
    assert [source for _, _, source in house.manager.learned] == ["", "discv5, answered"]
    assert house.manager.signs == 2


def test_a_change_of_shards_re_evaluates_known_nodes() -> None:
    house = House()
    house.discv5.table = [record(number) for number in range(4)]
    house.discv5.answering = {one.node_id for one in house.discv5.table[:3]}
    house.sources.look_again(lambda one: one != house.discv5.table[0])
    assert [peer for peer, _, _ in house.manager.learned] == [one.peer_id for one in house.discv5.table[1:3]]


def test_only_nodes_of_our_cluster_that_answered_are_given_away() -> None:
    house = House()
    house.discv5.table = [record(1), record(2), record(3, cluster=9), record(4, serves=False)]
    house.discv5.answering = {one.node_id for one in house.discv5.table} - {house.discv5.table[1].node_id}
    assert house.sources.exchangeable() == [house.discv5.table[0].raw]


def test_a_store_that_was_edited_does_not_stop_the_start(caplog: pytest.LogCaptureFixture) -> None:
    house = House()
    good = record(1)
    rows = ((b"junk", 5.0), (good.raw, 3.0), (b"", 9.0))
    house.manager.store = [
        SimpleNamespace(enr=enr, last_success=at, failures=0, peer_id="p") for enr, at in rows
    ]
    with caplog.at_level(logging.DEBUG):
        house.sources.seed()
    assert house.discv5.table == [good]
    assert "record in the peer store" in caplog.text
