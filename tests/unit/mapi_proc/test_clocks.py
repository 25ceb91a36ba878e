"""Whether the wall clock was set."""

from __future__ import annotations

from mapi_proc.clocks import SYSTEM_CLOCKS, Clocks, WallClockSteps

S = 1_000_000_000


def test_a_clock_that_is_set_shows_once_and_sleep_or_drift_does_not() -> None:
    wall, boot = 1000 * S, 0
    steps = WallClockSteps(Clocks(lambda: wall, lambda: 0.0, lambda: boot))
    wall, boot = wall + 9 * 3600 * S, boot + 9 * 3600 * S
    assert steps.look() == 0, "the host slept"
    for _ in range(10):
        wall, boot = wall + 60 * S + 1000, boot + 60 * S
        assert steps.look() == 0, "drift"
    wall += 3600 * S
    assert steps.look() == 3600 * S + 10_000
    assert steps.look() == 0
    wall -= 1800 * S
    assert steps.look() == -1800 * S


def test_the_systems_clocks_run() -> None:
    assert SYSTEM_CLOCKS.boot_ns() > 0
    assert WallClockSteps(SYSTEM_CLOCKS).look() == 0
