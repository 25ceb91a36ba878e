"""Health: its parts, and when a change is published."""

from __future__ import annotations

import pytest
import trio

from ipc_schema.kernel.records import NodeHealth, ProtocolHealth, ProtocolState, ShardHealth
from kernel_proc.health import HealthMonitor, relay_health, service_health, shard_health
from kernel_proc.lag import EventLoopLag
from tests.support.mock_clock import mock_clock_test


def test_relay_is_ready_with_one_peer() -> None:
    assert relay_health(0, mounted=True).state == "NOT_READY"
    assert relay_health(0, mounted=True).description == "No connected peers"
    assert relay_health(3, mounted=True) == ProtocolHealth(name="Relay", state="READY", strength=3)
    assert relay_health(0, mounted=False).state == "NOT_MOUNTED"


class House:
    def __init__(self) -> None:
        self.lag = EventLoopLag()
        self.peers = 0
        self.mesh = 0
        self.archive: str | None = None
        self.notified: list[NodeHealth] = []
        self.monitor = HealthMonitor(
            self.lag,
            lambda: [
                relay_health(self.peers, mounted=True),
                service_health("Store", mounted=self.archive is not None, lacks=self.archive or ""),
            ],
            self._shards,
            self.notified.append,
        )

    def _shards(self) -> list[ShardHealth]:
        return [shard_health(0, "topic", self.mesh, self.peers, subscribed=True)]


@mock_clock_test
async def test_changes_are_merged_and_published_once() -> None:
    house = House()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.monitor.run)
        house.monitor.set_state(ProtocolState.READY)
        for peers in range(1, 5):
            house.peers = house.mesh = peers
            house.monitor.touch()
        await trio.sleep(0.09)
        assert house.notified == []
        await trio.sleep(0.02)
        assert [health.protocols[0].strength for health in house.notified] == [4]
        assert house.notified[0].shards[0].health == "SUFFICIENTLY_HEALTHY"
        house.monitor.touch()
        await trio.sleep(1)
        assert len(house.notified) == 1  # nothing is different
        house.lag.observe(0.2)
        house.monitor.touch()
        await trio.sleep(1)
        assert len(house.notified) == 1  # the load alone is not a change
        house.mesh = 0
        house.monitor.touch()
        await trio.sleep(1)
        assert house.notified[-1].shards[0].health == "UNHEALTHY"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("state", "lag", "expected", "ready"),
    [
        (ProtocolState.INITIALIZING, 9.0, "INITIALIZING", False),
        (ProtocolState.READY, 0.0, "READY", True),
        (ProtocolState.READY, 5.1, "EVENT_LOOP_LAGGING", True),
        (ProtocolState.SHUTTING_DOWN, 9.0, "SHUTTING_DOWN", False),
    ],
)
def test_state_of_the_node(state: ProtocolState, lag: float, expected: str, ready: bool) -> None:
    @mock_clock_test
    async def check() -> None:
        house = House()
        house.monitor.set_state(state)
        house.lag.observe(lag)
        assert house.monitor.current().state == expected
        assert house.monitor.ready is ready

    check()


@mock_clock_test
async def test_a_node_whose_archive_is_away_is_not_ready() -> None:
    house = House()
    house.monitor.set_state(ProtocolState.READY)
    assert house.monitor.ready
    for archive, ready in (("", True), ("archive: connection refused", False), ("", True)):
        house.archive = archive
        assert house.monitor.ready is ready
        assert house.monitor.current().state == ("READY" if ready else "NOT_READY")
