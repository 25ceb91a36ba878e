"""The clock of persistent peer data."""

from __future__ import annotations

import pytest

from ipc_schema.steady import Stamp
from kernel_proc.peers.clock import PeerClock


class Host:
    """A host whose clocks a test sets."""

    def __init__(self) -> None:
        self.wall, self.steady, self.boot = 1_000_000.0, 50.0, "boot 1"

    def clock(self) -> PeerClock:
        return PeerClock(lambda: self.wall, lambda: self.steady, self.boot)

    def passes(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds


@pytest.mark.parametrize("step", [-31_536_000, -3600, 1200, 3600, 31_536_000])
def test_a_step_of_the_wall_clock_is_not_seen(step: float) -> None:
    host = Host()
    clock = host.clock()
    host.wall += step
    host.passes(10)
    assert clock() == 1_000_010


@pytest.mark.parametrize("step", [-31_536_000, -3600, 0, 3600, 31_536_000])
def test_an_instant_of_an_earlier_process_keeps_its_distance(step: float) -> None:
    host = Host()
    first = host.clock()
    in_a_minute = first() + 60
    stamp = Stamp.from_dict(first.stamp().to_dict())
    host.passes(10)
    host.wall += step
    second = host.clock()
    assert second.age(stamp) == 10
    assert in_a_minute + second.shift(stamp) == second() + 50


def test_after_a_start_of_the_host_the_wall_clock_is_believed_unless_it_was_set_back() -> None:
    host = Host()
    stamp = host.clock().stamp()
    host.boot, host.steady = "boot 2", 3.0
    host.wall += 500
    assert host.clock().age(stamp) == 500
    host.wall -= 1000
    assert host.clock().age(stamp) == 0


def test_a_host_without_a_boot_id_uses_the_wall_clock() -> None:
    host = Host()
    host.boot = ""
    stamp = host.clock().stamp()
    host.wall += 5
    assert host.clock().age(stamp) == 5
