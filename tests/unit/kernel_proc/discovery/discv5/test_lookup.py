"""Lookups: which nodes they ask, when they end, what they find."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from kernel_proc.discovery.discv5.endpoint import NodeContact, UdpEndpoint
from kernel_proc.discovery.discv5.lookup import MAX_FOUND, Lookup, distances_to
from kernel_proc.discovery.discv5.params import Params
from kernel_proc.discovery.discv5.table import distance, log_distance
from kernel_proc.discovery.enr import Enr
from tests.unit.kernel_proc.discovery.discv5.simulation import identity, public_ip, record_of

OWN = identity(0).node_id
PARAMS = Params()
NODES = {}
for number in range(1, 120):
    me = identity(number)
    NODES[me.node_id] = (
        record_of(me, public_ip(number)),
        NodeContact(me.node_id, UdpEndpoint(public_ip(number), 9000)),
    )
TARGET = identity(999).node_id


def by_distance(target: bytes) -> list[bytes]:
    return sorted(NODES, key=lambda node_id: distance(node_id, target))


@pytest.mark.parametrize(
    ("at", "expected"),
    [(256, (256, 255, 254)), (255, (255, 256, 254)), (100, (100, 101, 99)), (1, (1, 2, 3))],
)
def test_distances_around_the_target(at: int, expected: tuple[int, ...]) -> None:
    other = (int.from_bytes(OWN, "big") ^ (1 << (at - 1))).to_bytes(32, "big")
    assert distances_to(OWN, other, 3) == expected


def test_asking_a_node_about_itself_asks_for_its_closest() -> None:
    assert distances_to(OWN, OWN, 3) == (1, 2, 3)


def test_those_to_be_asked_first_are_however_far_they_are() -> None:
    ordered = by_distance(TARGET)
    lookup = Lookup(TARGET, OWN, PARAMS)
    far = ordered[-2:]
    lookup.add((NODES[node_id] for node_id in far), first=True)
    lookup.add(NODES[node_id] for node_id in ordered[:40])
    asked = []
    while (chosen := lookup.next()) is not None:
        asked.append(chosen[1].node_id)
        if len(asked) == 3:
            break
    assert asked == [*far, ordered[0]]
    assert lookup.waiting == 3
    for node_id in asked:
        lookup.answered(node_id)
    assert not lookup.finished
    lookup.failed(ordered[1])
    assert lookup.silent == 1


def walk(answers: Callable[[bytes], list[bytes] | None], seeds: list[bytes]) -> Lookup:
    """Run a lookup; `answers` returns the nodes that a node names, None if it is silent."""
    lookup = Lookup(TARGET, OWN, PARAMS)
    lookup.add(NODES[node_id] for node_id in seeds)
    waiting: list[NodeContact] = []
    while not lookup.finished:
        while (chosen := lookup.next()) is not None:
            waiting.append(chosen[1])
            assert len(waiting) <= PARAMS.lookup_concurrency
        node_id = waiting.pop(0).node_id
        named = answers(node_id)
        if named is None:
            lookup.failed(node_id)
        else:
            lookup.answered(node_id)
            lookup.add(NODES[other] for other in named)
    return lookup


def honest(node_id: bytes) -> list[bytes]:
    """What a node names that knows sixteen nodes of each distance."""
    named = [
        [other for other in NODES if log_distance(node_id, other) == at][:16]
        for at in distances_to(node_id, TARGET, 3)
    ]
    return [other for bucket in named for other in bucket][:16]


def test_it_finds_the_closest_nodes() -> None:
    lookup = walk(honest, by_distance(TARGET)[-3:])
    found = [record.node_id for record in lookup.closest()]
    # FINDNODE contains a distance, not the target: a partially returned bucket may miss some.
    assert found[:8] == by_distance(TARGET)[:8]
    assert len(found) == 16
    assert lookup.responsive >= 16


def test_silent_nodes_are_passed_over() -> None:
    silent = set(by_distance(TARGET)[:16:2])
    lookup = walk(lambda n: None if n in silent else honest(n), by_distance(TARGET)[-8:])
    alive = [node_id for node_id in by_distance(TARGET) if node_id not in silent]
    found = [record.node_id for record in lookup.closest()]
    assert found[:4] == alive[:4]
    assert len(found) == 16


def test_without_anyone_to_ask_it_is_over() -> None:
    lookup = Lookup(TARGET, OWN, PARAMS)
    assert lookup.finished
    assert lookup.next() is None
    assert lookup.closest() == []


def test_no_node_is_asked_twice_and_we_are_not_asked() -> None:
    lookup = Lookup(TARGET, OWN, PARAMS)
    first = by_distance(TARGET)[0]
    lookup.add([NODES[first]])
    assert lookup.next() is not None
    lookup.answered(first)
    lookup.add(
        [NODES[first], (record_of(identity(0), "20.0.0.1"), NodeContact(OWN, UdpEndpoint("20.0.0.1", 1)))]
    )
    assert lookup.next() is None
    assert lookup.finished


def test_a_newer_record_of_a_node_not_asked_yet_is_taken() -> None:
    lookup = Lookup(TARGET, OWN, PARAMS)
    me = identity(7)
    newer = record_of(me, "99.0.0.1", seq=2), NodeContact(me.node_id, UdpEndpoint("99.0.0.1", 9000))
    lookup.add([NODES[me.node_id], newer, NODES[me.node_id]])
    assert lookup.next() == newer


def test_kept_records_are_bounded() -> None:
    lookup = Lookup(TARGET, OWN, PARAMS)
    record: Enr = record_of(identity(1), "20.0.0.1")
    source = random.Random(1)
    lookup.add((record, NodeContact(source.randbytes(32), UdpEndpoint(public_ip(n), 1))) for n in range(5000))
    assert len(lookup._known) == MAX_FOUND


def test_one_network_gets_few_places() -> None:
    for exempt, host, places in ((False, "66.6.6.6", 10), (False, "127.0.0.1", 10), (True, "127.0.0.1", 100)):
        lookup = Lookup(TARGET, OWN, replace(PARAMS, exempt_loopback=exempt))
        record, source = record_of(identity(1), host), random.Random(1)
        given = [
            lookup.consider(record, NodeContact(source.randbytes(32), UdpEndpoint(host, 1)))
            for _ in range(100)
        ]
        assert given.count(True) == places
