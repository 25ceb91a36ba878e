"""The tracker against a kernel that loses frames, forgets, is restarted and hangs: what is neither delivered
nor reported as missing is a lie."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import example, given, settings
from hypothesis import strategies as st

from ipc_schema.streams.coverage import CoverageLog
from mapi_proc.kernel_link.tracker import Live, Missed, StreamPlace, StreamTracker

STEPS = st.sampled_from(
    [
        "publish",
        "publish, lost",
        "heartbeat",
        "heartbeat, lost",
        "sync",
        "page",
        "trim",
        "restart the kernel",
        "restart us",
        "uncover",
        "cover",
        "suspect",
        "lose the kernel",
    ]
)


class Held(NamedTuple):
    instance: bytes
    epoch: bytes
    seq: int
    time: int
    message: int


class World:
    """One shard's stream at a kernel, and one tracker that follows it."""

    def __init__(self, *, covered: bool = True) -> None:
        self.now = 1_000
        self.instances = 0
        self.ring: list[tuple[int, int, int]] = []  # seq, time, message
        self.messages: dict[int, int] = {}  # message -> when the network had it
        self.delivered: list[int] = []
        self.missed: list[Missed] = []
        self.head = 0
        self.covered = covered
        self.promised = covered
        """Whether the kernel ever had a peer: before that, nothing is promised."""
        self.begin()
        self.tracker = StreamTracker(None, self.now)
        self.sync()
        self.first = self.now

    def begin(self) -> None:
        self.instances += 1
        self.instance = self.epoch = bytes([self.instances % 256]) * 8
        self.ring, self.head = [], 0
        self.coverage = CoverageLog()
        if self.covered:
            self.coverage.open(self.now)

    # -- the kernel --------------------------------------------------------------------------------------

    def publish(self, *, lost: bool) -> None:
        """A peer publishes; the kernel hears of it when it is covered."""
        message = len(self.messages)
        if self.promised:
            self.messages[message] = self.now
        if not self.covered:
            return
        self.head += 1
        self.ring.append((self.head, self.now, message))
        if lost:
            return
        if self.tracker.live(self.instance, self.epoch, self.head, self.now) is Live.DELIVER:
            self.delivered.append(message)
        else:
            self.tracker.hold(Held(self.instance, self.epoch, self.head, self.now, message), b"")

    def heartbeat(self) -> None:
        self.tracker.heartbeat(self.instance, self.epoch, self.head, self.now, self.covered)

    # -- the link ----------------------------------------------------------------------------------------

    def sync(self) -> None:
        first = self.ring[0][0] if self.ring else self.head + 1
        coverage = self.coverage.intervals()
        self.tracker.leased(self.instance, self.epoch, first, self.head, coverage, self.now)
        self.check_notices()
        self.held()

    def held(self) -> None:
        """What came live before the lease or the replay was there."""
        for event, _ in self.tracker.take_held():
            if self.tracker.replayed(event.seq, event.time):
                self.delivered.append(event.message)

    def check_notices(self) -> None:
        self.missed += self.tracker.missed
        self.tracker.missed = []

    def page(self, most: int = 3) -> None:
        """One page of a replay, if one is outstanding."""
        tracker = self.tracker
        if not tracker.behind or (tracker.instance, tracker.epoch) != (self.instance, self.epoch):
            return
        first = self.ring[0][0] if self.ring else self.head + 1
        if first > tracker.seq + 1:
            tracker.trimmed(first, self.now)
            self.check_notices()
            return
        events = [event for event in self.ring if event[0] > tracker.seq][:most]
        for seq, time, message in events:
            if tracker.replayed(seq, time):
                self.delivered.append(message)
        last = events[-1][0] if events else tracker.seq
        tracker.page_done(last, last == self.head)
        self.held()

    def restart_us(self) -> None:
        """From what was kept on disk."""
        kept: StreamPlace = self.tracker.position
        self.tracker = StreamTracker(kept, self.now)

    def step(self, name: str) -> None:
        self.now += 10
        match name:
            case "publish" | "publish, lost":
                self.publish(lost=name != "publish")
            case "heartbeat":
                self.heartbeat()
            case "sync":
                self.sync()
            case "page":
                self.page()
            case "trim":
                self.ring = self.ring[len(self.ring) // 2 + 1 :]
            case "restart the kernel":
                self.tracker.lost_kernel()
                self.begin()
            case "restart us":
                self.restart_us()
            case "uncover":
                self.covered = False
                self.coverage.close(self.now)
                self.heartbeat()  # with the next one it shows: what is shorter is finer than the model
            case "cover":
                self.covered = self.promised = True
                self.coverage.open(self.now)
            case "suspect":
                self.tracker.suspect()
            case "lose the kernel":
                self.tracker.lost_kernel()
            case _:
                pass

    def settle(self) -> None:
        """The kernel is well again: in the end everything is known."""
        self.step("cover")
        for _ in range(4):
            self.step("heartbeat")
            self.step("sync")
            while self.tracker.behind:
                self.page()
        self.heartbeat()


@settings(max_examples=300)
@given(st.lists(STEPS, max_size=60), st.booleans())
@example(["cover", "uncover", "publish"], False)
def test_every_message_is_delivered_once_in_order_or_its_time_is_reported_as_missing(
    steps: list[str], covered: bool
) -> None:
    world = World(covered=covered)
    for name in steps:
        world.step(name)
    world.settle()
    assert world.tracker.live_now
    assert not world.tracker.behind
    assert world.delivered == sorted(set(world.delivered)), "once, and in order"
    for message, time in world.messages.items():
        if message not in world.delivered:
            assert any(missed.from_ns <= time <= missed.to_ns for missed in world.missed), (message, time)


@settings(max_examples=100)
@given(st.lists(STEPS, max_size=60))
def test_the_good_moment_never_passes_what_is_not_known(steps: list[str]) -> None:
    """Whatever happens next: what is after the position on disk is asked for again or reported."""
    world = World()
    for name in steps:
        world.step(name)
        good = world.tracker.position.good_ns
        assert good <= world.now
        for missed in world.missed:
            assert missed.from_ns <= missed.to_ns <= world.now
