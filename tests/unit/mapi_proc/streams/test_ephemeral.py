"""The stream of an app without a name."""

from __future__ import annotations

import pytest

from ipc_schema.mapi.event_codec import decode_app_event
from ipc_schema.mapi.events import AppHeartbeat, EventsDropped, MessagePropagated, TakenOver
from mapi_proc.streams import AckRefusedError, EphemeralLimits, EphemeralStream
from mapi_proc.streams.stream import PUMP_EVENTS
from tests.unit.mapi_proc.streams.support import PROPAGATED, Connection, Journal, Steps, fields

STREAM = b"e" * 16
MUCH = 1 << 40


def make(limits: EphemeralLimits | None = None) -> tuple[EphemeralStream, Connection, Steps]:
    steps = Steps()
    return EphemeralStream(STREAM, steps, limits), Connection(), steps


def append(stream: EphemeralStream, count: int = 1, payload: bytes = b"") -> None:
    for _ in range(count):
        number = stream.last_seq + 1
        assert stream.append(PROPAGATED, 1000 + number, fields(number), payload) == number


def test_an_event_goes_out_at_once_inside_credit() -> None:
    stream, connection, _ = make()
    stream.attach(connection, MUCH)
    append(stream, payload=b"payload")
    assert connection.events == [MessagePropagated(STREAM, 1, 1001, (1).to_bytes(16, "big"), bytes(32))]
    assert connection.payloads == [b"payload"]
    assert stream.waiting_bytes == 0


def test_without_credit_nothing_is_sent_and_nothing_lost() -> None:
    stream, connection, _ = make()
    stream.attach(connection)
    append(stream, 3, b"x" * 100)
    assert connection.events == []
    stream.grant(1)  # one event may overdraw
    assert connection.seqs == [1]
    stream.grant(connection.cost)
    assert connection.seqs == [1]
    stream.grant(connection.cost + 1)
    assert connection.seqs == [1, 2]
    stream.grant(5)  # cumulative: less than before says nothing
    stream.grant(MUCH)
    assert connection.seqs == [1, 2, 3]
    append(stream)
    assert connection.seqs == [1, 2, 3, 4]


def test_a_full_connection_keeps_the_order() -> None:
    stream, connection, _ = make()
    stream.attach(connection, MUCH)
    connection.open = False
    append(stream, 2)
    connection.open = True
    append(stream)
    assert connection.seqs == []  # not before the older ones
    stream.pump()
    assert connection.seqs == [1, 2, 3]


def test_a_long_backlog_leaves_others_their_turn() -> None:
    stream, connection, steps = make()
    stream.attach(connection)
    append(stream, PUMP_EVENTS * 2 + 5)
    stream.grant(MUCH)
    assert len(connection.seqs) == PUMP_EVENTS
    stream.pump()
    assert len(steps.waiting) == 1
    steps.run()
    assert connection.seqs == list(range(1, PUMP_EVENTS * 2 + 6))


def test_the_bound_on_the_count() -> None:
    stream, connection, _ = make(EphemeralLimits(max_events=3))
    stream.attach(connection)
    append(stream, 10)
    stream.grant(MUCH)
    assert connection.events[0] == EventsDropped(STREAM, 7, 1010, 1, 7, "count")
    assert connection.seqs == [7, 8, 9, 10]
    assert stream.events_dropped == 7


def test_the_bound_on_the_bytes_and_a_range_that_begins_after_what_was_sent() -> None:
    stream, connection, _ = make(EphemeralLimits(max_bytes=1000))
    stream.attach(connection, 1)
    append(stream, 6, b"x" * 300)  # the first one is sent
    assert stream.waiting_bytes <= 1000
    stream.grant(MUCH)
    dropped = connection.events[1]
    assert isinstance(dropped, EventsDropped)
    assert (dropped.first, dropped.reason) == (2, "bytes")
    assert connection.seqs == [1, *range(dropped.last, 7)]
    assert stream.events_dropped == dropped.last - 1


def test_one_event_above_the_bound_is_kept() -> None:
    stream, connection, _ = make(EphemeralLimits(max_bytes=10))
    append(stream, 2, b"x" * 300)
    stream.attach(connection, MUCH)
    assert connection.seqs == [1, 2]
    assert isinstance(connection.events[0], EventsDropped)


def test_ack_and_what_it_refuses() -> None:
    stream, connection, _ = make()
    batch = Journal().batch()
    stream.attach(connection, MUCH)
    append(stream, 3)
    assert stream.ack(2, batch) == 2
    assert stream.ack(1, batch) == 2
    with pytest.raises(AckRefusedError):
        stream.ack(4, batch)
    assert batch.empty


def test_a_detached_stream_sends_nothing() -> None:
    stream, connection, _ = make()
    stream.attach(connection, MUCH)
    stream.detach()
    append(stream)
    stream.pump()
    assert connection.events == []


def test_heartbeat_and_taken_over_take_no_seq() -> None:
    stream, _, _ = make()
    append(stream, 2)
    assert decode_app_event(stream.heartbeat(5)) == AppHeartbeat(STREAM, 2, 5)
    assert decode_app_event(stream.taken_over(6)) == TakenOver(STREAM, 2, 6)
    assert stream.last_seq == 2
