"""Labels by the wall clock, and what becomes of them when it is set."""

from __future__ import annotations

import pytest

from ipc_schema.steady import SteadyClock
from logos_bridge.label_clock import UNKNOWN_NS, LabelClock
from logos_bridge.positions import OutPosition

S = 1_000_000_000
HOUR = 3600 * S


class Host:
    """A host whose clocks a test sets, and the position that a bridge on it keeps."""

    def __init__(self) -> None:
        self.wall, self.steady, self.boot = 1_000_000 * S, 50 * S, "boot 1"
        self.position = OutPosition(
            epoch=b"e", seq=1, time_ns=self.wall, spans=((self.wall - 9 * S, self.wall),)
        )
        self.start()

    def start(self) -> None:
        self.clock = LabelClock(SteadyClock(lambda: self.wall, lambda: self.steady, self.boot), self.stepped)

    def stepped(self, by: int) -> None:
        self.position = self.position.moved(by)

    def passes(self, seconds: int, *, step: int = 0) -> None:
        self.wall += seconds * S + step
        self.steady += seconds * S

    def ages(self) -> list[int]:
        """How long ago everything kept was, in seconds, by the clock as it is now."""
        now = self.clock()
        return [(now - time) // S for time in (self.position.time_ns, *self.position.spans[0])]


@pytest.mark.parametrize("step", [-HOUR, HOUR, 8 * 24 * HOUR])
def test_a_step_moves_what_is_kept_and_ages_nothing(step: int) -> None:
    host = Host()
    host.passes(10, step=step)
    assert host.ages() == [10, 19, 10]
    host.passes(10, step=-step)
    assert host.ages() == [20, 29, 20]
    assert host.position.time_ns == 1_000_000 * S, "set right: the labels are what they were"


@pytest.mark.parametrize("step", [-HOUR, 0, HOUR])
def test_what_an_earlier_run_kept_is_as_old_as_it_is(step: int) -> None:
    host = Host()
    written = OutPosition.decode(
        OutPosition(
            **{name: getattr(host.position, name) for name in ("epoch", "seq", "time_ns", "spans")},
            stamp=host.clock.stamp(),
        ).encode()
    )
    host.passes(60, step=step)
    host.start()
    assert written.stamp is not None
    host.position = written.moved(host.clock.since(written.stamp))
    assert host.ages() == [60, 69, 60]


def test_after_a_start_of_the_host_by_an_earlier_clock_half_an_hour_has_passed() -> None:
    host = Host()
    stamp = host.clock.stamp()
    host.passes(60, step=-HOUR)
    host.boot, host.steady = "boot 2", 3 * S
    host.start()
    host.position = host.position.moved(host.clock.since(stamp))
    assert host.ages()[0] == UNKNOWN_NS // S
