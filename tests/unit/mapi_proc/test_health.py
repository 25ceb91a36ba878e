"""Connection status and topic health from the kernel's facts."""

from __future__ import annotations

import pytest

from mapi_proc.health import (
    MERGE_SECONDS,
    Connection,
    HealthTransition,
    NodeFacts,
    TopicHealth,
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


def test_a_flap_that_is_over_before_settling_is_not_told() -> None:
    transition = HealthTransition()
    transition.update(NodeFacts(kernel_up=True, relay_peers=1), frozenset(), 0.0)
    transition.update(NodeFacts(kernel_up=True, relay_peers=0), frozenset(), 0.05)
    assert transition.settle(1.0) == (None, {})


def test_a_newly_wanted_shard_is_told_once() -> None:
    transition = HealthTransition()
    facts = NodeFacts(kernel_up=True, relay_peers=0, mesh_peers={2: 1})
    transition.update(facts, frozenset({2}), 0.0)
    assert transition.settle(1.0) == (None, {2: TopicHealth.MINIMALLY_HEALTHY})
    transition.update(facts, frozenset({2}), 2.0)
    assert transition.settle_at is None
