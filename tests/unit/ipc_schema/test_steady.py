"""The clock that no step moves."""

from __future__ import annotations

import pytest

from ipc_schema.steady import Stamp, SteadyClock

S = 1_000_000_000
YEAR = 365 * 24 * 3600 * S


class Host:
    """A host whose clocks a test moves."""

    def __init__(self) -> None:
        self.wall = 50 * YEAR
        self.boot = 100 * S

    def pass_by(self, ns: int) -> None:
        self.wall += ns
        self.boot += ns

    def clock(self, boot: str = "b", last: Stamp | None = None) -> SteadyClock:
        return SteadyClock(lambda: self.wall, lambda: self.boot, boot, last)


@pytest.mark.parametrize("step", [3600 * S, -3600 * S, 1200 * S, YEAR, -YEAR])
def test_a_step_moves_labels_and_no_instant(step: int) -> None:
    host = Host()
    clock = host.clock()
    begin = clock()
    assert begin == host.wall
    host.pass_by(10 * S)
    host.wall += step
    assert clock() == begin + 10 * S
    assert clock.label(clock()) == host.wall
    assert clock.of_label(host.wall) == clock()
    assert clock.label(begin) == host.wall - 10 * S, "ten seconds ago by the clock of now"


@pytest.mark.parametrize("step", [3600 * S, -3600 * S, YEAR, -YEAR])
def test_a_step_while_the_process_is_away_is_none_either(step: int) -> None:
    host = Host()
    clock = host.clock()
    stamp = Stamp.from_note(clock.stamp().to_note())
    host.pass_by(30 * S)
    host.wall += step
    assert host.clock(last=stamp)() == clock()


def test_across_a_start_of_the_host_the_wall_clock_counts_and_never_backwards() -> None:
    host = Host()
    clock = host.clock()
    stamp = clock.stamp()
    host.wall += 60 * S
    host.boot = 5 * S
    assert host.clock("other", stamp)() == stamp.label + 60 * S
    host.wall -= YEAR
    assert host.clock("other", stamp)() == stamp.label
    assert host.clock("", stamp)() == stamp.label


@pytest.mark.parametrize(
    "note", [None, b"", b"{", b"[]", b'{"boot": 1}', b'{"boot":"","steady":"x"}', b"\xff"]
)
def test_a_note_that_cannot_be_read_is_none(note: bytes | None) -> None:
    assert Stamp.from_note(note) is None
