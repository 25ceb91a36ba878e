from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

import logos_client
from ipc_schema.errors import ErrorCode
from ipc_schema.fields import FieldError
from ipc_schema.frames import is_app_event
from ipc_schema.kernel.events import MessageEvent, decode_header, encode_message_header
from ipc_schema.mapi import event_codec
from ipc_schema.mapi.event_codec import (
    AppEventEncoder,
    AppEventError,
    decode_app_event,
    decode_received,
    encode_app_event,
    event_cost,
    event_frames,
    pack_fields,
)
from ipc_schema.mapi.events import (
    AppEventKind,
    AppHeartbeat,
    ChannelDeliveryError,
    ChannelMessageDelivered,
    ChannelMessageError,
    ChannelMessageLost,
    ChannelMessageReceived,
    ChannelMessageSent,
    ChannelSegmentReceived,
    ChannelSync,
    ConnectionStatusChange,
    ContentTopicHealthChange,
    EventsDropped,
    MessageCancelled,
    MessageError,
    MessagePropagated,
    MessageQueued,
    MessageReceived,
    MessageSent,
    MessagesMissed,
    MessageUnconfirmed,
    TakenOver,
    UnknownAppEvent,
)
from ipc_schema.message import WakuMessage
from tests.unit.ipc_schema.strategies import INT64, attempt, frames_near, values

STREAM = bytes(range(16))
REQUEST = bytes(range(16, 32))
HASH = bytes(range(32))
NOW = 1_700_000_000_000_000_000
TOPIC = "/app/1/chat/proto"

EXAMPLES: dict[AppEventKind, tuple[type[Any], tuple[object, ...]]] = {
    AppEventKind.HEARTBEAT: (AppHeartbeat, ()),
    AppEventKind.MESSAGE_RECEIVED: (MessageReceived, (TOPIC, HASH, NOW, b"meta", True, 1, "history")),
    AppEventKind.MESSAGE_PROPAGATED: (MessagePropagated, (REQUEST, HASH)),
    AppEventKind.MESSAGE_SENT: (MessageSent, (REQUEST, HASH)),
    AppEventKind.MESSAGE_ERROR: (MessageError, (REQUEST, None, "Unable to send within retry time window")),
    AppEventKind.CONNECTION_STATUS_CHANGE: (ConnectionStatusChange, ("Connected", "2 peers")),
    AppEventKind.CONTENT_TOPIC_HEALTH_CHANGE: (ContentTopicHealthChange, (TOPIC, "UNHEALTHY")),
    AppEventKind.EVENTS_DROPPED: (EventsDropped, (5, 9, "age")),
    AppEventKind.MESSAGES_MISSED: (MessagesMissed, ((TOPIC, "/b/1/c/proto"), 1, 2, "kernel restarted")),
    AppEventKind.MESSAGE_UNCONFIRMED: (MessageUnconfirmed, (REQUEST, HASH, "no store node")),
    AppEventKind.MESSAGE_CANCELLED: (MessageCancelled, (REQUEST,)),
    AppEventKind.TAKEN_OVER: (TakenOver, ()),
    AppEventKind.MESSAGE_QUEUED: (MessageQueued, (REQUEST,)),
    AppEventKind.CHANNEL_MESSAGE_RECEIVED: (ChannelMessageReceived, ("room", "bob", "ab" * 32, 1 << 40)),
    AppEventKind.CHANNEL_MESSAGE_SENT: (ChannelMessageSent, ("room", REQUEST)),
    AppEventKind.CHANNEL_MESSAGE_DELIVERED: (ChannelMessageDelivered, ("room", REQUEST, "bob")),
    AppEventKind.CHANNEL_MESSAGE_ERROR: (ChannelMessageError, ("room", REQUEST, "segments failed")),
    AppEventKind.CHANNEL_DELIVERY_ERROR: (ChannelDeliveryError, ("room", REQUEST, "unacknowledged")),
    AppEventKind.CHANNEL_MESSAGE_LOST: (ChannelMessageLost, ("room", HASH, ("a", "b"), "never received")),
    AppEventKind.CHANNEL_SYNC: (ChannelSync, ("room", "syncing", 3)),
    AppEventKind.CHANNEL_SEGMENT_RECEIVED: (ChannelSegmentReceived, ("room", "bob", "ab")),
}


def test_every_kind_has_an_example() -> None:
    assert set(EXAMPLES) == set(AppEventKind)
    assert [int(kind) for kind in AppEventKind] == list(range(21))


@pytest.mark.parametrize("kind", list(EXAMPLES))
def test_round_trip(kind: AppEventKind) -> None:
    cls, fields = EXAMPLES[kind]
    header = encode_app_event(STREAM, 7, kind, NOW, *fields)
    assert decode_app_event(header) == cls(STREAM, 7, NOW, *fields)
    assert AppEventEncoder(STREAM).encode(7, kind, NOW, pack_fields(*fields)) == header
    assert is_app_event(header)


@pytest.mark.parametrize("kind", list(EXAMPLES))
def test_tail_elements_are_ignored_and_missing_ones_named(kind: AppEventKind) -> None:
    cls, fields = EXAMPLES[kind]
    header = [1, STREAM, 7, int(kind), NOW, *fields]
    assert decode_app_event(msgpack.packb([*header, "later", [1]])) == cls(STREAM, 7, NOW, *fields)
    needed = len(fields) - len(cls._field_defaults)
    if needed:
        with pytest.raises(AppEventError, match="is missing"):
            decode_app_event(msgpack.packb(header[: 5 + needed - 1]))


received = st.tuples(
    st.text(max_size=20),
    st.binary(min_size=32, max_size=32),
    INT64,
    st.binary(max_size=64),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)


@given(st.integers(0, 2**63 - 1), INT64, received)
def test_a_received_message_comes_back_as_it_was(seq: int, now: int, fields: tuple[Any, ...]) -> None:
    header = AppEventEncoder(STREAM).encode(seq, 1, now, pack_fields(*fields))
    assert decode_app_event(header) == MessageReceived(STREAM, seq, now, *fields)
    assert header == encode_app_event(STREAM, seq, 1, now, *fields)


@pytest.mark.parametrize("source", [(), ("history",)])
def test_what_comes_most_does_without_the_rows(
    source: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A live message does not say its source; read by its row, it took four times as long."""
    monkeypatch.delitem(event_codec._rows, AppEventKind.MESSAGE_RECEIVED)
    header = encode_app_event(STREAM, 1, 1, NOW, TOPIC, HASH, NOW, b"", False, 0, *source)
    assert decode_app_event(header) == MessageReceived(
        STREAM, 1, NOW, TOPIC, HASH, NOW, b"", False, 0, *source
    )


def test_the_fields_of_a_kernel_message_fit_as_they_are() -> None:
    message = WakuMessage(b"x", TOPIC, 1, NOW, b"meta", b"proof", True)
    kernel = decode_header(encode_message_header(STREAM, bytes(8), 3, NOW, message, HASH, 0))
    assert isinstance(kernel, MessageEvent)
    header = encode_app_event(STREAM, 1, AppEventKind.MESSAGE_RECEIVED, NOW, *kernel[4:10])
    assert decode_app_event(header) == MessageReceived(STREAM, 1, NOW, TOPIC, HASH, NOW, b"meta", True, 1)


def test_an_unknown_kind_keeps_its_place_in_the_stream() -> None:
    header = msgpack.packb([1, STREAM, 9, 99, NOW, "anything"])
    assert decode_app_event(header) == UnknownAppEvent(STREAM, 9, NOW, 99)


@pytest.mark.parametrize(
    ("at", "value", "place"),
    [
        (0, 2, "first element"),
        (0, STREAM, "first element"),
        (0, True, "first element"),
        (1, STREAM[1:], "stream id: 15 bytes"),
        (2, -1, "seq"),
        (3, "1", "kind"),
        (3, True, "kind"),
        (3, 1.0, "kind"),
        (4, 2**63, "time"),
        (5, None, "content topic"),
        (6, HASH[1:], "message hash: 31 bytes"),
        (7, 1.5, "timestamp"),
        (8, bytes(65), "meta"),
        (9, 0, "ephemeral"),
        (10, -1, "version"),
        (11, b"live", "source"),
    ],
)
def test_a_bad_element_is_named(at: int, value: object, place: str) -> None:
    header = [1, STREAM, 7, 1, NOW, TOPIC, HASH, NOW, b"", False, 0, "live"]
    header[at] = value
    with pytest.raises(AppEventError, match=place) as caught:
        decode_app_event(msgpack.packb(header))
    assert caught.value.code is ErrorCode.BAD_REQUEST


@given(st.one_of([frames_near((1, STREAM, 7, int(kind), NOW, *item[1])) for kind, item in EXAMPLES.items()]))
def test_any_bytes_are_an_event_or_a_typed_error(frame: bytes) -> None:
    event = attempt(lambda: decode_app_event(frame), AppEventError)
    if isinstance(event, MessageReceived):
        again = encode_app_event(event.stream_id, event.seq, 1, event.time_ns, *event[3:])
        assert decode_app_event(again) == event
    elif not isinstance(event, AppEventError):
        assert len(event.stream_id) == 16
        assert event.seq >= 0


@given(st.lists(st.tuples(st.integers(5, 11), values), min_size=1, max_size=2), st.booleans())
def test_the_hot_checks_are_those_of_the_declaration(changes: list[tuple[int, object]], says: bool) -> None:
    """Decoding a message checks by hand what `MessageReceived` declares: both must draw the same line."""
    header: list[object] = [1, STREAM, 7, 1, NOW, TOPIC, HASH, NOW, b"", False, 0, "live"]
    for at, value in changes:
        header[at] = value
    header[11:] = header[11:] if says else ["live"]
    event = attempt(lambda: decode_app_event(msgpack.packb(header[: 12 if says else 11])), AppEventError)
    declared = attempt(
        lambda: event_codec._rows[AppEventKind.MESSAGE_RECEIVED].read(tuple(header[5:])), FieldError
    )
    assert isinstance(event, AppEventError) == isinstance(declared, FieldError)
    if isinstance(event, MessageReceived):
        assert list(event[3:]) == declared


@given(st.one_of([frames_near((1, STREAM, 7, int(kind), NOW, *item[1])) for kind, item in EXAMPLES.items()]))
def test_a_message_with_its_payload_is_the_same_message(frame: bytes) -> None:
    event = attempt(lambda: decode_app_event(frame), AppEventError)
    shown = decode_received(frame, b"payload", logos_client.MessageReceived)
    if shown is None:
        assert not isinstance(event, MessageReceived) or len(msgpack.unpackb(frame)) > 12, (
            "of a later version"
        )
    else:
        assert isinstance(event, MessageReceived)
        assert {**event._asdict(), "payload": b"payload"} == shown._asdict()


def test_the_cost_is_the_length_of_both_frames() -> None:
    header = encode_app_event(STREAM, 1, 0, NOW)
    assert event_frames(header, b"payload") == [b"LD1", header, b"payload"]
    assert event_cost(header, b"payload") == len(header) + 7


def test_fields_are_bounded() -> None:
    most = tuple(range(event_codec.MAX_EVENT_FIELDS))
    header = AppEventEncoder(STREAM).encode(1, 50, NOW, pack_fields(*most))
    assert msgpack.unpackb(header)[5:] == list(most)
    with pytest.raises(ValueError, match="11 fields"):
        pack_fields(*most, 0)
    with pytest.raises(ValueError, match="11 fields"):
        encode_app_event(STREAM, 1, 50, NOW, *most, 0)
