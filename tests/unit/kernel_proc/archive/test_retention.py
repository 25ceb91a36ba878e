from __future__ import annotations

import pytest

from ipc_schema.config.archive import RetentionPolicy
from kernel_proc.archive.retention import RetentionClock, excess


@pytest.mark.parametrize(
    ("policy", "messages", "size", "too_many"),
    [
        (RetentionPolicy(), 1000, 1000, 0),
        (RetentionPolicy(seconds=1), 1000, 1000, 0),
        (RetentionPolicy(messages=900), 1000, 1000, 100),
        (RetentionPolicy(messages=1000), 1000, 1000, 0),
        (RetentionPolicy(bytes=500_000), 1000, 1_000_000, 500),
        (RetentionPolicy(bytes=999_999), 1000, 1_000_000, 1),
        (RetentionPolicy(bytes=1_000_000), 1000, 1_000_000, 0),
        (RetentionPolicy(bytes=500_000, messages=100), 1000, 1_000_000, 900),
        (RetentionPolicy(bytes=1), 0, 40_960, 0),
    ],
)
def test_excess(policy: RetentionPolicy, messages: int, size: int, too_many: int) -> None:
    assert excess(policy, messages, size) == too_many


S = 1_000_000_000
DAY = 24 * 3600 * S
START = 20_000 * DAY


class Host:
    """A host whose clocks a test moves."""

    def __init__(self) -> None:
        self.wall = START
        self.steady = 0

    def pass_by(self, ns: int) -> None:
        self.wall += ns
        self.steady += ns

    def clock(self) -> RetentionClock:
        return RetentionClock(lambda: self.wall, lambda: self.steady)


@pytest.mark.parametrize("step", [1200 * S, 3 * DAY, 365 * DAY])
def test_a_clock_that_is_set_ahead_makes_no_message_old(step: int) -> None:
    host = Host()
    clock = host.clock()
    host.pass_by(3600 * S)
    newest = host.wall
    assert clock.now(newest) == host.wall
    host.wall += step
    assert clock.now(newest) == newest
    host.pass_by(12 * S)
    assert clock.now(host.wall) == newest + 12 * S, "not even a message of ours that is stamped so"
    host.wall -= step
    assert clock.now(newest) == host.wall


def test_a_node_that_starts_with_a_clock_days_ahead_goes_by_the_newest_message() -> None:
    host = Host()
    newest = host.wall
    host.wall += 3 * DAY
    clock = host.clock()
    assert newest <= clock.now(newest) <= newest + 60 * S
    host.pass_by(DAY)
    assert newest + DAY <= clock.now(newest) <= newest + DAY + 60 * S, "while it runs, time passes"
    host.wall -= 3 * DAY
    assert clock.now(host.wall) == host.wall


def test_after_a_quiet_time_new_messages_show_that_it_has_passed() -> None:
    host = Host()
    newest = host.wall - 10 * DAY
    clock = host.clock()
    assert clock.now(newest) <= newest + 60 * S
    host.pass_by(S)
    assert clock.now(host.wall) == host.wall


def test_a_clock_that_is_set_back_keeps_more_and_an_empty_archive_needs_no_proof() -> None:
    host = Host()
    clock = host.clock()
    assert clock.now(None) == host.wall
    host.wall -= DAY
    assert clock.now(START) == host.wall
