"""The event loop's lateness and its averages."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from kernel_proc.lag import EventLoopLag


def test_averages_rise_and_fall_at_their_own_pace() -> None:
    lag = EventLoopLag()
    for _ in range(12):  # a minute of 50 ms: the accepted lag
        lag.observe(0.05)
    report = lag.report()
    assert report.lag_ms == pytest.approx(50)
    assert report.load_1m == pytest.approx(1 - 2.718281828**-1, abs=1e-4)
    assert 0 < report.load_15m < report.load_5m < report.load_1m < 1
    for _ in range(2000):
        lag.observe(0.1)
    assert lag.report().load_15m == pytest.approx(2, rel=1e-3)
    lag.observe(-1.0)
    assert lag.report().lag_ms == 0
    assert lag.accumulated == pytest.approx(12 * 0.05 + 200)


def test_above_five_seconds_it_lags_and_says_so() -> None:
    changes: list[bool] = []
    clock = MockClock()
    lag = EventLoopLag()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lag.run, lambda: changes.append(lag.lagging))
            await trio.testing.wait_all_tasks_blocked()
            for step in (5.0, 11.0, 5.0, 5.0):
                clock.jump(step)
                await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()

    trio.run(main, clock=clock)
    assert changes == [True, False]
    samples = {(name, *labels.values()): value for name, labels, value in lag.samples()}
    assert samples["event_loop_accumulated_lag_secs",] == pytest.approx(6.0)
    assert set(samples) > {("event_loop_load", "1m"), ("event_loop_load", "5m"), ("event_loop_load", "15m")}
