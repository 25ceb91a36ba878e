"""Connection status and topic health from the kernel's facts."""

from __future__ import annotations

import pytest

from ipc_schema.kernel.records import TopicHealth
from ipc_schema.mapi.methods import ConnectionStatus as Connection
from mapi_proc.health import (
    MERGE_SECONDS,
    EdgePeers,
    HealthTransition,
    NodeConnectionState,
    NodeFacts,
    connection_of,
    shard_health,
)


@pytest.mark.parametrize(
    ("peers", "status"),
    [(0, Connection.DISCONNECTED), (1, Connection.PARTIALLY_CONNECTED), (3, Connection.PARTIALLY_CONNECTED),
     (4, Connection.CONNECTED), (9, Connection.CONNECTED)],
)  # fmt: skip
def test_connection_by_relay_peers(peers: int, status: Connection) -> None:
    assert connection_of(NodeFacts(kernel_up=True, relay_peers=peers)).status is status


def test_a_kernel_that_is_down_is_disconnected_with_the_reason() -> None:
    state = connection_of(NodeFacts(kernel_up=False, kernel_reason="kernel stopped", relay_peers=9))
    assert (state.status, state.reason) == (Connection.DISCONNECTED, "kernel stopped")


@pytest.mark.parametrize(
    ("mesh", "health"),
    [(0, TopicHealth.UNHEALTHY), (1, TopicHealth.MINIMALLY_HEALTHY), (3, TopicHealth.MINIMALLY_HEALTHY),
     (4, TopicHealth.SUFFICIENTLY_HEALTHY)],
)  # fmt: skip
def test_shard_health_by_mesh_peers(mesh: int, health: TopicHealth) -> None:
    assert shard_health(NodeFacts(kernel_up=True, mesh_peers={7: mesh}), 7) is health
    assert shard_health(NodeFacts(kernel_up=False, mesh_peers={7: mesh}), 7) is TopicHealth.UNHEALTHY


def test_transitions_within_the_merge_time_become_one() -> None:
    transition = HealthTransition()
    wanted = frozenset({1})
    transition.update(NodeFacts(kernel_up=True, relay_peers=1, mesh_peers={1: 1}), wanted, 0.0)
    transition.update(NodeFacts(kernel_up=True, relay_peers=5, mesh_peers={1: 5}), wanted, 0.05)
    assert transition.settle(0.05) == (None, {}), "not yet due"
    connection, shards = transition.settle(MERGE_SECONDS)
    assert connection is not None
    assert connection.status is Connection.CONNECTED
    assert shards == {1: TopicHealth.SUFFICIENTLY_HEALTHY}
    assert transition.settle_at is None


def test_a_flap_that_is_over_before_settling_is_not_reported() -> None:
    transition = HealthTransition()
    transition.update(NodeFacts(kernel_up=True, relay_peers=1), frozenset(), 0.0)
    transition.update(NodeFacts(kernel_up=True, relay_peers=0), frozenset(), 0.05)
    assert transition.settle(1.0) == (None, {})


def test_a_newly_wanted_shard_is_reported_once() -> None:
    transition = HealthTransition()
    facts = NodeFacts(kernel_up=True, relay_peers=0, mesh_peers={2: 1})
    transition.update(facts, frozenset({2}), 0.0)
    assert transition.settle(1.0) == (None, {2: TopicHealth.MINIMALLY_HEALTHY})
    transition.update(facts, frozenset({2}), 2.0)
    assert transition.settle_at is None


def edge(filter_: int, lightpush: int, store: int, **pushing: int) -> NodeFacts:
    shards = {int(name[1:]): count for name, count in pushing.items()}
    return NodeFacts(kernel_up=True, edge=EdgePeers(filter_, lightpush, store, shards))


@pytest.mark.parametrize(
    ("peers", "status", "reason"),
    [
        ((2, 2, 2), Connection.CONNECTED, ""),
        ((5, 2, 3), Connection.CONNECTED, ""),
        ((1, 2, 2), Connection.PARTIALLY_CONNECTED, "1 of 2 filter peers"),
        ((2, 1, 1), Connection.PARTIALLY_CONNECTED, "1 of 2 lightpush peers, 1 of 2 store peers"),
        ((0, 2, 2), Connection.DISCONNECTED, "no filter peers"),
        ((2, 0, 1), Connection.DISCONNECTED, "no lightpush peers"),
        ((2, 1, 0), Connection.DISCONNECTED, "no store peers"),
        ((0, 0, 0), Connection.DISCONNECTED, "no filter or lightpush or store peers"),
    ],
)
def test_connection_of_an_edge_node(peers: tuple[int, int, int], status: Connection, reason: str) -> None:
    assert connection_of(edge(*peers)) == NodeConnectionState(status, reason)


def test_relay_peers_count_for_nothing_on_an_edge_node() -> None:
    facts = NodeFacts(kernel_up=True, relay_peers=9, mesh_peers={1: 9}, edge=EdgePeers())
    assert connection_of(facts).status is Connection.DISCONNECTED
    assert shard_health(facts, 1) is TopicHealth.UNHEALTHY


@pytest.mark.parametrize(
    ("pushing", "health"),
    [(0, TopicHealth.UNHEALTHY), (1, TopicHealth.MINIMALLY_HEALTHY), (2, TopicHealth.SUFFICIENTLY_HEALTHY),
     (3, TopicHealth.SUFFICIENTLY_HEALTHY)],
)  # fmt: skip
def test_shard_health_by_filter_peers(pushing: int, health: TopicHealth) -> None:
    assert shard_health(edge(2, 2, 2, s7=pushing), 7) is health
    assert shard_health(edge(2, 2, 2), 7) is TopicHealth.UNHEALTHY
