"""The stream of a named app."""

from __future__ import annotations

import pytest

from ipc_schema.mapi.events import EventsDropped
from mapi_proc.database import AppRecord
from mapi_proc.streams import AckRefusedError, CacheBudget, DurableLimits, DurableStream, append_to_all
from tests.unit.mapi_proc.streams.support import PROPAGATED, Connection, Journal, Steps, fields

APP = AppRecord(1, "app", 1000, b"d" * 16, 1, 1)
OTHER = AppRecord(2, "other", 1000, b"o" * 16, 1, 1)
MUCH = 1 << 40


class World:
    def __init__(self, limits: DurableLimits | None = None, budget: CacheBudget | None = None) -> None:
        self.journal = Journal()
        self.steps = Steps()
        self.limits = limits
        self.budget = budget or CacheBudget()
        batch = self.journal.batch()
        batch.create_app(APP)
        batch.create_app(OTHER)
        self.journal.submit(batch)
        self.journal.commit()
        self.stream = self.load(APP)

    def load(self, app: AppRecord) -> DurableStream:
        snapshot = self.journal.load()
        record = next(record for record in snapshot.apps if record.app_id == app.app_id)
        extents = snapshot.extents[app.app_id]
        return DurableStream(
            record, extents, self.journal.read_page, self.steps, limits=self.limits, budget=self.budget
        )

    def append(self, count: int = 1, payload: bytes = b"", time: int = 1000) -> None:
        """One batch with `count` events, not committed yet."""
        batch = self.journal.batch()
        for _ in range(count):
            self.stream.append(PROPAGATED, time, fields(self.stream.last_seq + 1), payload, batch)
        self.journal.submit(batch)

    def ack(self, seq: int) -> None:
        batch = self.journal.batch()
        self.stream.ack(seq, batch)
        self.journal.submit(batch)


def test_nothing_is_sent_before_it_is_on_disk() -> None:
    world = World()
    connection = Connection()
    world.stream.attach(connection, MUCH)
    world.append(2)
    world.append(1)
    assert connection.events == []
    world.journal.commit(1)
    assert connection.seqs == [1, 2]
    world.journal.commit()
    assert connection.seqs == [1, 2, 3]
    assert not world.journal.reads  # live events are never read back
    assert world.budget.used <= 1000


def test_a_new_connection_begins_after_the_last_ack() -> None:
    world = World()
    world.append(5, b"payload")
    world.journal.commit()
    first = Connection()
    world.stream.attach(first, MUCH)
    world.journal.read()
    assert first.seqs == [1, 2, 3, 4, 5]
    world.ack(3)
    world.journal.commit()
    second = Connection()
    world.stream.attach(second, MUCH)
    world.journal.read()
    assert second.seqs == [4, 5]
    assert second.payloads == [b"payload"] * 2
    assert first.seqs == [1, 2, 3, 4, 5]
    assert world.journal.rows() == [[1, 2, 3, 4, 5]], "written together, they go together"
    world.ack(5)
    world.journal.commit()
    assert world.journal.rows() == []


def test_a_restart_continues_the_same_stream() -> None:
    world = World()
    world.append(40, b"x" * 100)
    world.journal.commit()
    world.ack(30)
    world.journal.commit()
    world.append(5)  # never committed: the process dies
    world.journal.batches.clear()
    world.stream = world.load(APP)
    assert (world.stream.acked, world.stream.last_seq) == (30, 40)
    connection = Connection()
    world.stream.attach(connection, MUCH)
    world.append(1)
    world.journal.commit()
    world.journal.read()
    assert connection.seqs == list(range(31, 42))


def test_everything_acknowledged_keeps_the_seq() -> None:
    world = World()
    world.append(3)
    world.journal.commit()
    world.ack(3)
    world.journal.commit()
    assert world.stream.stored_bytes == 0
    assert world.load(APP).last_seq == 3


def test_an_ack_of_what_was_not_sent_is_refused() -> None:
    world = World()
    world.append(2)
    with pytest.raises(AckRefusedError):
        world.ack(1)
    world.journal.commit()
    world.ack(2)
    with pytest.raises(AckRefusedError):
        world.ack(3)


def test_a_stuck_app_costs_bounded_memory_and_reads_back() -> None:
    budget = CacheBudget()
    world = World(DurableLimits(tail_bytes=20_000, page_bytes=5_000, page_events=10), budget)
    connection = Connection()
    world.stream.attach(connection)
    for _ in range(200):
        world.append(1, b"x" * 1000)
        world.journal.commit()
        assert budget.used <= 20_000
    world.stream.grant(MUCH)
    while world.journal.reads or world.steps.waiting:
        world.journal.read()
        world.steps.run()
    assert connection.seqs == list(range(1, 201))
    world.append(1)
    world.journal.commit()
    assert connection.seqs[-1] == 201
    assert not world.journal.reads
    world.stream.detach()
    assert budget.used == 0


def test_the_next_page_is_read_while_half_of_the_last_one_waits() -> None:
    world = World(DurableLimits(tail_bytes=0, page_events=10))
    world.append(25)
    world.journal.commit()
    connection = Connection()
    world.stream.attach(connection, 1)
    world.journal.read()
    cost = connection.cost
    world.stream.grant(4 * cost + 1)
    assert connection.seqs == [1, 2, 3, 4, 5]
    assert len(world.journal.reads) == 0
    world.stream.grant(5 * cost + 1)
    assert len(world.journal.reads) == 1
    world.journal.read()
    world.stream.grant(14 * cost + 1)
    assert connection.seqs == list(range(1, 16))  # without a wait between the two pages
    world.stream.grant(MUCH)
    world.journal.read()
    assert connection.seqs == list(range(1, 26))


def test_a_budget_that_others_use_up_only_costs_reads() -> None:
    budget = CacheBudget(limit=1000, used=1000)
    world = World(budget=budget)
    connection = Connection()
    world.stream.attach(connection, MUCH)
    world.append(10, b"x" * 100)
    world.journal.commit()
    assert connection.seqs == []
    world.journal.read()
    assert connection.seqs == list(range(1, 11))
    assert budget.used == 1000


def test_a_page_of_an_older_connection_is_thrown_away() -> None:
    world = World()
    world.append(3)
    world.journal.commit()
    old, new = Connection(), Connection()
    world.stream.attach(old, MUCH)
    assert len(world.journal.reads) == 1
    world.stream.attach(new, MUCH)
    world.journal.read()
    assert old.events == []
    assert new.seqs == [1, 2, 3]


def test_a_failed_read_is_tried_again_with_the_next_pump() -> None:
    world = World()
    world.append(3)
    world.journal.commit()
    asked = []
    world.stream._read_page = lambda *args: asked.append(args[-1])
    connection = Connection()
    world.stream.attach(connection, MUCH)
    asked.pop()([])
    assert connection.events == []
    world.stream._read_page = world.journal.read_page
    world.stream.pump()
    world.journal.read()
    assert connection.seqs == [1, 2, 3]


def test_the_bound_on_the_bytes() -> None:
    world = World(DurableLimits(max_bytes=6400))
    for number in range(100):
        world.append(1, b"x" * 1000, time=5000 + number)
        world.journal.commit()
        assert world.stream.stored_bytes <= 6400
    kept = world.journal.seqs()
    assert len(kept) == 5
    assert world.stream.events_dropped == 95
    connection = Connection()
    world.stream.attach(connection, MUCH)
    world.journal.read()
    assert connection.events[0] == EventsDropped(APP.stream_id, 95, 5099, 1, 95, "bytes")
    assert connection.seqs == [95, *kept]
    world.stream = world.load(APP)  # the same after a restart
    again = Connection()
    world.stream.attach(again, MUCH)
    world.journal.read()
    assert again.events == connection.events
    world.ack(95)
    world.journal.commit()
    last = Connection()
    world.stream.attach(last, MUCH)
    world.journal.read()
    assert last.seqs == kept


def test_what_was_sent_on_this_connection_is_not_reported_as_dropped() -> None:
    world = World(DurableLimits(max_bytes=6400))
    connection = Connection()
    world.stream.attach(connection, MUCH)
    for _ in range(20):
        world.append(1, b"x" * 1000)
        world.journal.commit()
    assert connection.seqs == list(range(1, 21))
    assert not any(isinstance(event, EventsDropped) for event in connection.events)
    assert len(world.journal.seqs()) == 5


def test_a_drop_is_not_reported_before_it_is_on_disk() -> None:
    world = World(DurableLimits(max_bytes=6400))
    connection = Connection()
    world.stream.attach(connection, MUCH)
    world.append(20, b"x" * 1000)
    world.stream.pump()
    assert connection.events == []
    world.journal.commit()
    world.journal.read()
    assert connection.seqs == list(range(15, 21))


def test_the_bound_on_the_age() -> None:
    world = World(DurableLimits(max_age=64))
    for time in range(100):
        world.append(1, time=time)
    world.journal.commit()
    connection = Connection()
    batch = world.journal.batch()
    world.stream.expire(100, batch)
    world.journal.submit(batch)
    world.journal.commit()
    world.stream.attach(connection, MUCH)
    world.journal.read()
    dropped = connection.events[0]
    assert isinstance(dropped, EventsDropped)
    assert (dropped.first, dropped.last, dropped.reason) == (1, 36, "age")
    assert connection.seqs == list(range(36, 101))


def test_expiry_wakes_an_idle_connection() -> None:
    world = World(DurableLimits(max_age=64))
    connection = Connection()
    world.stream.attach(connection)
    world.append(3, time=0)
    world.journal.commit()
    world.stream.grant(1)
    assert connection.seqs == [1]
    batch = world.journal.batch()
    world.stream.expire(1000, batch)
    world.journal.submit(batch)
    world.stream.grant(MUCH)
    world.journal.commit()
    assert connection.seqs[-1] == 3


def test_a_hole_in_the_journal_is_reported() -> None:
    world = World()
    for _ in range(5):
        world.append()
    world.journal.commit()
    world.journal.connection.execute("DELETE FROM journal WHERE key & 7 IN (2, 3)")
    connection = Connection()
    world.stream.attach(connection, MUCH)
    world.journal.read()
    assert connection.seqs == [1, 3, 4, 5]
    assert connection.events[1] == EventsDropped(APP.stream_id, 3, 0, 2, 3, "lost")
    assert world.stream.events_dropped == 2


def test_a_hole_takes_nothing_with_it_that_is_there() -> None:
    world = World()
    for _ in range(5):
        world.append()
    world.journal.commit()
    world.journal.connection.execute("DELETE FROM journal WHERE key & 7 = 3")
    for _ in range(2):  # nothing is acknowledged: the second connection gets all of it again
        connection = Connection()
        world.stream.attach(connection, MUCH)
        world.journal.read()
        assert connection.seqs == [1, 2, 3, 4, 5]
        assert isinstance(connection.events[2], EventsDropped)
    assert world.stream.events_dropped == 1


def test_one_event_for_several_apps_is_stored_once() -> None:
    world = World()
    other = world.load(OTHER)
    batch = world.journal.batch()
    append_to_all([world.stream, other], PROPAGATED, 5, fields(1), b"x" * 2000, batch)
    append_to_all([world.stream, other], PROPAGATED, 5, fields(2), b"small", batch)
    append_to_all([world.stream], PROPAGATED, 5, fields(3), b"y" * 2000, batch)
    world.journal.submit(batch)
    world.journal.commit()
    assert world.journal.connection.execute("SELECT data FROM payload").fetchall() == [(b"x" * 2000,)]
    connections = Connection(), Connection()
    for stream, connection in zip((world.stream, other), connections, strict=True):
        stream.attach(connection, MUCH)
    world.journal.read()
    assert connections[0].payloads == [b"x" * 2000, b"small", b"y" * 2000]
    assert connections[1].payloads == [b"x" * 2000, b"small"]
    assert {event.stream_id for event in connections[1].events} == {OTHER.stream_id}


def test_a_drop_that_overtakes_a_read() -> None:
    world = World(DurableLimits(max_age=64, tail_bytes=0))
    connection = Connection()
    world.stream.attach(connection, MUCH)
    world.append(1, time=0)
    world.append(2, time=1000)
    world.journal.commit(1)
    assert len(world.journal.reads) == 1  # for the first event, which goes before it is read
    batch = world.journal.batch()
    world.stream.expire(500, batch)
    world.journal.submit(batch)
    world.journal.commit()
    world.journal.read()
    assert connection.seqs == [1, 2, 3]
    assert isinstance(connection.events[0], EventsDropped)
