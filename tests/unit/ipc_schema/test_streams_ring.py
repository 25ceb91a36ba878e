"""Replay rings under one budget, against a model that keeps everything in one list."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.streams import EVENT_OVERHEAD, MAX_REPLAY_EVENTS, ReplayRing, RingBudget
from tests.support.steps import lines_run

RINGS = 3
LIMIT = 5 * EVENT_OVERHEAD + 100


class Kept(NamedTuple):
    ring: int
    seq: int
    header: bytes
    payload: bytes

    @property
    def cost(self) -> int:
        return len(self.header) + len(self.payload) + EVENT_OVERHEAD


class RingMachine(RuleBasedStateMachine):
    """The model: all events of all rings in the order of their coming."""

    def __init__(self) -> None:
        super().__init__()
        self.budget = RingBudget(LIMIT)
        self.rings = [ReplayRing(self.budget) for _ in range(RINGS)]
        self.kept: list[Kept] = []
        self.last = [0] * RINGS

    def of_ring(self, ring: int) -> list[Kept]:
        return [event for event in self.kept if event.ring == ring]

    @rule(ring=st.integers(0, RINGS - 1), header=st.binary(max_size=20), size=st.integers(0, 300))
    def append(self, ring: int, header: bytes, size: int) -> None:
        self.last[ring] += 1
        event = Kept(ring, self.last[ring], header, bytes(size))
        self.rings[ring].append(event.seq, event.header, event.payload)
        self.kept.append(event)
        while sum(kept.cost for kept in self.kept) > LIMIT:
            self.kept.pop(0)

    @rule(ring=st.integers(0, RINGS - 1))
    def append_what_fits_nowhere(self, ring: int) -> None:
        self.last[ring] += 1
        self.rings[ring].append(self.last[ring], b"", bytes(LIMIT))
        self.kept.clear()

    @rule(ring=st.integers(0, RINGS - 1), last=st.integers(0, 5))
    def clear(self, ring: int, last: int) -> None:
        self.rings[ring].clear(last)
        self.last[ring] = last
        self.kept = [event for event in self.kept if event.ring != ring]

    @rule(
        ring=st.integers(0, RINGS - 1),
        back=st.integers(0, 8),
        max_bytes=st.integers(0, 400),
        max_events=st.integers(1, 4),
    )
    def read(self, ring: int, back: int, max_bytes: int, max_events: int) -> None:
        after = max(0, self.last[ring] - back)
        events = self.of_ring(ring)
        first = events[0].seq if events else self.last[ring] + 1
        if after + 1 < first:
            with pytest.raises(IpcError) as caught:
                self.rings[ring].read(after, max_bytes, max_events)
            assert caught.value.code is ErrorCode.TRIMMED
            assert caught.value.detail == {"first": first}
            return
        expected: list[tuple[bytes, bytes]] = []
        size = 0
        for event in events:
            if event.seq <= after:
                continue
            size += len(event.header) + len(event.payload)
            if expected and (size > max_bytes or len(expected) == max_events):
                break
            expected.append((event.header, event.payload))
        batch = self.rings[ring].read(after, max_bytes, max_events)
        assert batch.events == expected
        assert batch.last == after + len(expected)
        assert batch.complete == (batch.last == self.last[ring])

    @precondition(lambda self: any(self.last))
    @rule(ring=st.integers(0, RINGS - 1), step=st.sampled_from([0, 2, -1]))
    def append_out_of_order(self, ring: int, step: int) -> None:
        with pytest.raises(ValueError, match="does not follow"):
            self.rings[ring].append(self.last[ring] + step, b"", b"")

    @invariant()
    def agrees(self) -> None:
        assert self.budget.used == sum(event.cost for event in self.kept) <= LIMIT
        for number, ring in enumerate(self.rings):
            events = self.of_ring(number)
            assert len(ring) == len(events)
            assert ring.last == self.last[number]
            assert ring.first == (events[0].seq if events else ring.last + 1)


TestRings = RingMachine.TestCase


def test_reading_beyond_the_stream_is_refused() -> None:
    ring = ReplayRing(RingBudget(10_000))
    ring.append(1, b"h", b"p")
    for after in (2, -1):
        with pytest.raises(IpcError) as caught:
            ring.read(after)
        assert caught.value.code is ErrorCode.BAD_REQUEST
    assert ring.read(1) == ([], 1, True)


def test_a_reply_holds_so_many_events_at_most() -> None:
    ring = ReplayRing(RingBudget(10_000_000))
    for seq in range(1, MAX_REPLAY_EVENTS + 2):
        ring.append(seq, b"h", b"")
    assert len(ring.read(0).events) == MAX_REPLAY_EVENTS
    assert not ring.read(0).complete
    assert ring.read(MAX_REPLAY_EVENTS).complete


def test_evictions_are_counted_and_clears_are_not() -> None:
    budget = RingBudget(2 * EVENT_OVERHEAD)
    ring = ReplayRing(budget)
    for seq in (1, 2, 3):
        ring.append(seq, b"", b"")
    assert budget.evicted == 1
    ring.clear()
    assert (budget.evicted, budget.used, ring.first, ring.last) == (1, 0, 1, 0)


def test_streams_that_come_and_go_leave_nothing_behind() -> None:
    """Below the limit nothing is ever evicted: the books of cleared events must go all the same."""
    budget = RingBudget(1 << 30)
    steady = ReplayRing(budget)
    steady.append(1, b"", b"")
    for _ in range(50):
        ring = ReplayRing(budget)
        for seq in range(1, 101):
            ring.append(seq, b"h", b"p")
        ring.clear()
    assert len(budget._tickets) <= 200
    assert steady.read(0).events == [(b"", b"")]


def test_a_budget_of_nothing_keeps_nothing() -> None:
    ring = ReplayRing(RingBudget(0))
    ring.append(1, b"", b"")
    assert (ring.first, ring.last, len(ring)) == (2, 1, 0)
    with pytest.raises(ValueError, match="budget"):
        RingBudget(-1)


def test_the_cost_of_an_append_does_not_grow_with_the_ring() -> None:
    def lines_each(size: int) -> float:
        """Lines for an append to a full ring of `size` events, evictions included."""
        ring = ReplayRing(RingBudget(size * EVENT_OVERHEAD))
        for seq in range(1, size + 1):
            ring.append(seq, b"", b"")

        def work() -> None:
            for seq in range(size + 1, 2 * size + 1):
                ring.append(seq, b"", b"")
                if seq % 100 == 0:
                    ring.read(seq - size // 2, max_events=1)

        lines = lines_run(work)
        assert len(ring) == size
        return lines / size

    assert lines_each(5_000) == pytest.approx(lines_each(500), rel=0.2)
