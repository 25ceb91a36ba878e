"""The app's end of a stream, without sockets: whatever order things come in, the promises hold."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipc_schema.mapi.event_codec import encode_app_event, event_cost, event_frames
from ipc_schema.mapi.events import AppEventKind
from logos_client._stream import AppStreamReader
from logos_client._stream_types import Position
from logos_client.events import EventsDropped, LinkLost, MessageReceived

STREAM = bytes(16)


def message(seq: int, size: int = 10, stream_id: bytes = STREAM) -> list[bytes]:
    header = encode_app_event(
        stream_id, seq, AppEventKind.MESSAGE_RECEIVED, 1, "/a/1/b/c", bytes(32), 5, b"", False, 0
    )
    return event_frames(header, bytes(size))


def test_a_stream_needs_a_window() -> None:
    with pytest.raises(ValueError, match="at least one byte"):
        AppStreamReader(0)


def test_what_is_in_hand_is_neither_acknowledged_nor_given_back() -> None:
    stream = AppStreamReader(1_000)
    stream.greeted(STREAM, 0, stream.opening_credit())
    stream.receive(message(1, 600))
    assert stream.take() is not None
    assert stream.ack_due() is None
    assert stream.credit_due() is None
    assert stream.queued_bytes > 600
    assert stream.take() is None
    assert stream.ack_due() == Position(STREAM, 1)
    assert stream.credit_due() == 1_000 + event_cost(*message(1, 600)[1:])
    stream.acked(Position(STREAM, 1))
    assert stream.ack_due() is None


def test_an_unknown_event_is_acknowledged_with_the_one_before_it() -> None:
    stream = AppStreamReader(1_000)
    stream.greeted(STREAM, 0, 1_000)
    unknown = encode_app_event(STREAM, 1, 99, 1)
    stream.receive(event_frames(unknown))
    assert stream.ack_due() == Position(STREAM, 1)
    stream.receive(message(2))
    stream.receive(event_frames(encode_app_event(STREAM, 3, 99, 1)))
    assert stream.ack_due() == Position(STREAM, 1)
    stream.take()
    stream.receive(event_frames(encode_app_event(STREAM, 4, 99, 1)))
    assert stream.ack_due() == Position(STREAM, 1)
    stream.take()
    assert stream.ack_due() == Position(STREAM, 4)


def test_events_dropped_explains_its_gap() -> None:
    stream = AppStreamReader(1_000)
    stream.greeted(STREAM, 0, 1_000)
    stream.receive(message(1))
    dropped = encode_app_event(STREAM, 5, AppEventKind.EVENTS_DROPPED, 1, 2, 5, "bytes")
    stream.receive(event_frames(dropped))
    stream.receive(message(6))
    stream.receive(message(9))
    shown = [stream.take() for _ in range(5)]
    assert isinstance(shown[1], EventsDropped)
    assert isinstance(shown[3], EventsDropped)
    assert (shown[3].first, shown[3].last, shown[3].reason) == (7, 8, "never received")
    assert stream.counters.missing == 2


def test_another_stream_tells_where_the_last_one_ended() -> None:
    stream = AppStreamReader(1_000)
    assert stream.greeted(STREAM, 7, 1_000) is None
    stream.receive(message(8))
    other = os.urandom(16)
    assert stream.greeted(other, 0, stream.opening_credit()) == Position(STREAM, 8)
    stream.receive(message(9))
    assert stream.counters.garbage == 1
    assert isinstance(stream.take(), MessageReceived)
    stream.take()
    assert stream.ack_due() is None, "an ack for a stream that has ended would be refused"


def test_the_servers_word_on_what_is_acknowledged_holds() -> None:
    """Our last acks may have been lost with the connection."""
    stream = AppStreamReader(10_000)
    stream.greeted(STREAM, 0, 10_000)
    for seq in range(1, 5):
        stream.receive(message(seq))
        stream.take()
    stream.take()
    stream.acked(Position(STREAM, 4))
    stream.greeted(STREAM, 2, stream.opening_credit())
    stream.receive(message(3))
    assert stream.counters.duplicates == 1
    assert stream.ack_due() == Position(STREAM, 4)


@settings(max_examples=300)
@given(
    window=st.integers(1, 3_000),
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("emit"), st.integers(0, 2_000)),
            st.tuples(st.just("take"), st.just(0)),
            st.tuples(st.just("ack"), st.just(0)),
            st.tuples(st.just("reconnect"), st.just(0)),
            st.tuples(st.just("flap"), st.just(0)),
        ),
        max_size=80,
    ),
)
def test_bounded_in_order_once_and_never_stuck(window: int, steps: list[tuple[str, int]]) -> None:
    """A server that keeps to the contract, and connections that come and go at any moment."""
    stream = AppStreamReader(window)
    events: list[list[bytes]] = []
    acked = sent = cost = 0
    credit = stream.opening_credit()
    stream.greeted(STREAM, 0, credit)
    taken: list[int] = []
    largest = 0

    def push() -> None:
        nonlocal sent, cost
        while sent < len(events) and cost < credit:
            cost += event_cost(*events[sent][1:])
            sent += 1
            if stream.receive(events[sent - 1]) is None:
                grant()  # a repeat gives its credit back at once

    def grant() -> None:
        nonlocal credit
        total = stream.credit_due()
        if total is not None:
            stream.granted(total)
            assert total > credit
            credit = total

    def settle() -> None:
        grant()
        push()

    def take() -> bool:
        event = stream.take()
        settle()
        if isinstance(event, MessageReceived):
            taken.append(event.seq)
        return event is not None

    for step, size in steps:
        if step == "emit":
            events.append(message(len(events) + 1, size))
            largest = max(largest, event_cost(*events[-1][1:]))
            push()
        elif step == "take":
            take()
        elif step == "flap":
            stream.put_local(LinkLost("again"))
        elif step == "ack":
            due = stream.ack_due()
            if due is not None:
                assert due.seq <= (taken[-1] if taken else 0)
                acked = due.seq
                stream.acked(due)
        else:
            credit, cost, sent = stream.opening_credit(), 0, acked
            assert stream.greeted(STREAM, acked, credit) is None
            settle()
        assert stream.queued_bytes <= window + largest
    while take() or len(stream):
        pass
    assert taken == list(range(1, len(events) + 1)), "each once, in order, and nothing stuck"
    assert stream.queued_bytes == 0
