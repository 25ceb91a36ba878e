"""A hundred discovery engines in simulated time and one loop: what shows only in a large network."""

from __future__ import annotations

import pytest

from kernel_proc.discovery.discv5.table import distance
from kernel_proc.discovery.enr import Enr
from tests.unit.kernel_proc.discovery.discv5.simulation import identity, network_of

pytestmark = pytest.mark.simulation


def test_a_hundred_nodes_find_enough_of_each_other_and_then_the_closest() -> None:
    network, nodes = network_of(100)
    assert network.run(30, lambda: all(len(node.known) >= 30 for node in nodes))
    target = identity(7777).node_id
    results: list[list[Enr]] = []
    nodes[42].engine.lookup(target, network.now, results.append)
    assert network.run(10, lambda: bool(results))
    everyone = sorted((n.record.node_id for n in nodes), key=lambda i: distance(i, target))
    assert [record.node_id for record in results[0]][:4] == [
        n for n in everyone if n != nodes[42].record.node_id
    ][:4]
