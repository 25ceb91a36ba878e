"""Any order of appending, committing, crashing, connecting, granting and acknowledging, against a naive
model.

The model is the list of everything that was ever committed. What it demands of each connection: the seqs go
up; an event is the one that was appended under its seq; what is left out is covered, exactly, by an
`events_dropped` in its place; nothing is sent that is not on disk; nothing beyond credit. And in the end,
with credit for all, everything has come.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ipc_schema.mapi.events import EventsDropped, MessagePropagated
from mapi_proc.database import AppRecord
from mapi_proc.streams import CacheBudget, DurableLimits, DurableStream
from tests.unit.mapi_proc.streams.support import PROPAGATED, Connection, Journal, Steps, fields

APP = AppRecord(1, "app", 1000, b"d" * 16, 1, 1)
LIMITS = DurableLimits(max_bytes=8000, max_age=1000, tail_bytes=1500, page_bytes=600, page_events=3)
BUDGET = 2500
EVENT_COST = 80  # a header, about


class CheckedConnection(Connection):
    """A connection that checks each event as it comes."""

    def __init__(self, model: DurableStreamModel, start: int) -> None:
        super().__init__()
        self.model = model
        self.last = start
        self.total = 0

    def __call__(self, header: bytes, payload: bytes) -> bool:
        assert self.cost < self.total, "sent without credit"
        if not super().__call__(header, payload):
            return False
        event = self.events[-1]
        assert event.seq <= self.model.on_disk, "sent before it was on disk"
        if isinstance(event, EventsDropped):
            assert (event.first, event.last) == (self.last + 1, event.seq)
            assert event.reason in ("bytes", "age")
            assert event.last <= self.model.stream.dropped
        else:
            assert isinstance(event, MessagePropagated)
            assert event.seq == self.last + 1
            assert (event.request_id, payload) == self.model.appended[event.seq]
        self.last = event.seq
        return True


class DurableStreamModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.journal = Journal()
        self.steps = Steps()
        self.budget = CacheBudget(limit=BUDGET)
        self.appended: dict[int, tuple[bytes, bytes]] = {}
        self.names = 0
        self.now = 0
        self.on_disk = 0
        self.acked_on_disk = 0
        self.connection: CheckedConnection | None = None
        batch = self.journal.batch()
        batch.create_app(APP)
        self.journal.submit(batch)
        self.journal.commit()
        self.stream = self.load()

    def load(self) -> DurableStream:
        snapshot = self.journal.load()
        return DurableStream(
            snapshot.apps[0],
            snapshot.extents[1],
            self.journal.read_page,
            self.steps,
            limits=LIMITS,
            budget=self.budget,
        )

    @rule(sizes=st.lists(st.sampled_from([0, 10, 300, 1200]), min_size=1, max_size=8))
    def append(self, sizes: list[int]) -> None:
        batch = self.journal.batch()
        for size in sizes:
            self.names += 1
            payload = bytes([self.names & 255]) * size
            seq = self.stream.append(PROPAGATED, self.now, fields(self.names), payload, batch)
            self.appended[seq] = (self.names.to_bytes(16, "big"), payload)
        self.journal.submit(batch)

    @rule(count=st.integers(1, 3))
    def commit(self, count: int) -> None:
        # A stream is notified after its batch is stored, so the model looks first.
        for _ in range(min(count, len(self.journal.batches))):
            batch = self.journal.batches[0]
            self.on_disk = max([self.on_disk, *batch.listeners.values()])
            self.acked_on_disk = max([self.acked_on_disk, *batch.acks.values()])
            self.journal.commit(1)

    @rule()
    def read_one_page(self) -> None:
        if self.journal.reads:
            self.journal.reads.popleft()()

    @rule()
    def turn(self) -> None:
        self.steps.run()

    @rule(credit=st.sampled_from([0, 100, 5000]))
    def attach(self, credit: int) -> None:
        self.connection = CheckedConnection(self, self.stream.acked)
        self.connection.total = credit
        self.stream.attach(self.connection, credit)

    @rule()
    def detach(self) -> None:
        self.stream.detach()
        self.connection = None

    @precondition(lambda self: self.connection is not None)
    @rule(more=st.sampled_from([1, 500, 100_000]))
    def grant(self, more: int) -> None:
        assert self.connection is not None
        self.connection.total += more
        self.stream.grant(self.connection.total)

    @precondition(lambda self: self.connection is not None)
    @rule(is_open=st.booleans())
    def congestion(self, is_open: bool) -> None:
        assert self.connection is not None
        self.connection.open = is_open
        if is_open:
            self.stream.pump()

    @precondition(lambda self: self.connection is not None and self.connection.last > self.stream.acked)
    @rule(back=st.integers(0, 5))
    def ack(self, back: int) -> None:
        assert self.connection is not None
        seq = max(self.stream.acked, self.connection.last - back)
        batch = self.journal.batch()
        assert self.stream.ack(seq, batch) == seq
        self.journal.submit(batch)

    @rule(passed=st.sampled_from([1, 100, 900]))
    def time_passes(self, passed: int) -> None:
        self.now += passed
        batch = self.journal.batch()
        self.stream.expire(self.now, batch)
        self.journal.submit(batch)

    @rule()
    def crash(self) -> None:
        """What was not committed is gone, and no app has seen it."""
        self.stream.detach()
        self.journal.batches.clear()
        self.journal.reads.clear()
        self.steps.waiting.clear()
        self.connection = None
        self.stream = self.load()
        assert self.stream.last_seq == self.on_disk
        assert self.stream.acked == self.acked_on_disk

    @invariant()
    def bounds_hold(self) -> None:
        assert self.stream.stored_bytes <= LIMITS.max_bytes + LIMITS.max_bytes // 64
        assert 0 <= self.budget.used <= BUDGET
        assert len(self.journal.reads) <= 2  # one of this connection, one of the one before a crash

    def teardown(self) -> None:
        self.commit(len(self.journal.batches))
        if self.connection is None or not self.connection.open:
            self.attach(0)
        assert self.connection is not None
        self.connection.total += 1 << 40
        self.stream.grant(self.connection.total)
        while self.journal.reads or self.steps.waiting:
            self.journal.read()
            self.steps.run()
        assert self.connection.last == self.on_disk == self.stream.last_seq
        over = max(self.stream.acked, self.stream.dropped)
        assert all(row[-1] > over for row in self.journal.rows()), "a row goes when all of it is over"
        kept = [seq for seq in self.journal.seqs() if seq > over]
        assert kept == list(range(over + 1, self.on_disk + 1))


TestDurableStream = DurableStreamModel.TestCase
TestDurableStream.settings = settings(max_examples=100, stateful_step_count=50)
