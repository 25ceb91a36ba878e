from __future__ import annotations

import math

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.fields import FieldError
from ipc_schema.kernel import events
from ipc_schema.kernel.events import (
    EVENT_VERSION,
    SOURCE_SELF,
    EventKind,
    HeaderError,
    HealthEvent,
    Heartbeat,
    MessageEvent,
    MessageHeaderEncoder,
    PeerEvent,
    UnknownEvent,
    decode_header,
    encode_health,
    encode_heartbeat,
    encode_message_header,
    encode_peer,
    parse_stream,
    stream_name,
    stream_topic,
)
from ipc_schema.kernel.records import NodeHealth, PeerChange, PeerRecord, ProtocolHealth, TopicHealth
from ipc_schema.message import WakuMessage
from tests.unit.ipc_schema.strategies import INT64, attempt, bodies, frames_near, values

INSTANCE = bytes(range(16))
EPOCH = bytes(range(8))
HASH = bytes(range(32))
NOW = 1_700_000_000_000_000_000
TOPIC = "/app/1/chat/proto"
MESSAGE_HEADER = (1, 1, INSTANCE, EPOCH, 7, NOW, TOPIC, HASH, NOW, b"m", False, 0, b"", 0)

messages = st.builds(
    WakuMessage,
    payload=st.binary(max_size=3),
    content_topic=st.text(max_size=20),
    version=st.integers(0, 2**32 - 1),
    timestamp=INT64,
    meta=st.binary(max_size=64),
    proof=st.binary(max_size=20),
    ephemeral=st.booleans(),
)
seqs = st.integers(0, 2**63 - 1)


@given(seqs, INT64, messages, st.binary(min_size=32, max_size=32), st.integers(0, 2))
def test_a_message_comes_back_as_it_was(
    seq: int, now: int, message: WakuMessage, digest: bytes, source: int
) -> None:
    encoder = MessageHeaderEncoder(INSTANCE, EPOCH)
    header = encoder.encode(seq, now, message, digest, source)
    assert header == encode_message_header(INSTANCE, EPOCH, seq, now, message, digest, source)
    assert decode_header(header) == MessageEvent(
        INSTANCE,
        EPOCH,
        seq,
        now,
        message.content_topic,
        digest,
        message.timestamp,
        message.meta,
        message.ephemeral,
        message.version,
        message.proof,
        source,
    )


def test_an_encoder_works_on_after_a_message_it_could_not_write() -> None:
    encoder = MessageHeaderEncoder(INSTANCE, EPOCH)
    good = WakuMessage(b"x", TOPIC)
    before = encoder.encode(1, NOW, good, HASH, SOURCE_SELF)
    with pytest.raises(ValueError):
        encoder.encode(1, NOW, WakuMessage(b"x", "\ud800"), HASH, SOURCE_SELF)
    assert encoder.encode(1, NOW, good, HASH, SOURCE_SELF) == before


@pytest.mark.parametrize("covered", [True, False])
def test_heartbeat(covered: bool) -> None:
    assert decode_header(encode_heartbeat(INSTANCE, EPOCH, 3, NOW, covered)) == Heartbeat(
        INSTANCE, EPOCH, 3, NOW, covered
    )


@given(bodies(NodeHealth))
def test_health(health: NodeHealth) -> None:
    event = decode_header(encode_health(INSTANCE, EPOCH, 3, NOW, health))
    assert event == HealthEvent(INSTANCE, EPOCH, 3, NOW, health)


@given(st.sampled_from(PeerChange), bodies(PeerRecord))
def test_peer(change: PeerChange, peer: PeerRecord) -> None:
    event = decode_header(encode_peer(INSTANCE, EPOCH, 3, NOW, change, peer))
    assert event == PeerEvent(INSTANCE, EPOCH, 3, NOW, change, peer)


def test_an_unknown_kind_keeps_its_place_in_the_stream() -> None:
    header = msgpack.packb([1, 77, INSTANCE, EPOCH, 9, NOW, "anything"])
    assert decode_header(header) == UnknownEvent(INSTANCE, EPOCH, 9, NOW, 77)


def test_tail_elements_are_ignored() -> None:
    plain = decode_header(msgpack.packb(MESSAGE_HEADER))
    assert decode_header(msgpack.packb([*MESSAGE_HEADER, "later", {"a": [1]}])) == plain
    beat = msgpack.packb([1, 0, INSTANCE, EPOCH, 9, NOW, True, "later"])
    assert decode_header(beat) == Heartbeat(INSTANCE, EPOCH, 9, NOW, True)


@pytest.mark.parametrize(
    ("at", "value", "place"),
    [
        (0, 2, "version 2"),
        (0, True, "version True"),
        (1, -1, "kind"),
        (1, True, "kind: an integer"),
        (2, INSTANCE[1:], "instance: 15 bytes"),
        (3, "epoch", "epoch: binary"),
        (4, -1, "seq"),
        (4, 1.0, "seq: an integer is expected, not a float"),
        (4, 2**63, "seq"),
        (5, math.nan, "time"),
        (6, b"topic", "content topic: text is expected, not binary"),
        (7, HASH[1:], "message hash: 31 bytes"),
        (8, None, "timestamp"),
        (8, 2**63, "timestamp"),
        (9, bytes(65), "meta: 65 bytes, at most 64"),
        (10, 1, "ephemeral: a boolean"),
        (11, 2**32, "version"),
        (12, None, "proof: binary is expected, not nil"),
        (13, 256, "source"),
        (13, False, "source"),
    ],
)
def test_a_bad_element_is_named(at: int, value: object, place: str) -> None:
    header = [*MESSAGE_HEADER[:at], value, *MESSAGE_HEADER[at + 1 :]]
    with pytest.raises(HeaderError, match=place) as caught:
        decode_header(msgpack.packb(header))
    assert caught.value.code is ErrorCode.BAD_REQUEST


@pytest.mark.parametrize(
    ("header", "place"),
    [
        (b"", "MessagePack"),
        (b"\xc0", "an array"),
        (msgpack.packb(MESSAGE_HEADER) + b"\0", "MessagePack"),
        (msgpack.packb(MESSAGE_HEADER[:5]), "5 elements"),
        (msgpack.packb(MESSAGE_HEADER[:13]), "source: is missing"),
        (msgpack.packb([1, 0, *MESSAGE_HEADER[2:6]]), "covered: is missing"),
        (msgpack.packb([1, 2, *MESSAGE_HEADER[2:6], []]), "health: a map"),
        (msgpack.packb([1, 2, *MESSAGE_HEADER[2:6], {"state": 1}]), "health.state: text"),
        (msgpack.packb([1, 3, *MESSAGE_HEADER[2:6], "left", {}]), "peer.peer_id: is missing"),
        (bytes(events.MAX_EVENT_HEADER + 1), "at most"),
    ],
)
def test_bad_headers(header: bytes, place: str) -> None:
    with pytest.raises(HeaderError, match=place):
        decode_header(header)


around = st.one_of(
    frames_near(MESSAGE_HEADER),
    frames_near((1, 0, INSTANCE, EPOCH, 7, NOW, True)),
    frames_near((1, 2, INSTANCE, EPOCH, 7, NOW, {"state": "READY", "protocols": [{"name": "relay"}]})),
    frames_near((1, 3, INSTANCE, EPOCH, 7, NOW, "joined", {"peer_id": "16Uiu2"})),
)


@given(around)
def test_any_bytes_are_an_event_or_a_typed_error(frame: bytes) -> None:
    event = attempt(lambda: decode_header(frame), HeaderError)
    if isinstance(event, MessageEvent):
        message = WakuMessage(
            b"", event.content_topic, event.version, event.timestamp, event.meta, event.proof, event.ephemeral
        )
        again = encode_message_header(
            event.instance, event.epoch, event.seq, event.time_ns, message, event.message_hash, event.source
        )
        assert decode_header(again) == event
    elif not isinstance(event, HeaderError):
        assert len(event.instance) == 16
        assert len(event.epoch) == 8
        assert event.seq >= 0


elements = st.tuples(st.integers(6, 13), values)


@given(st.lists(elements, min_size=1, max_size=2))
def test_the_hot_checks_are_those_of_the_declaration(changes: list[tuple[int, object]]) -> None:
    """Decoding a message checks by hand what `MessageEvent` declares: both must draw the same line."""
    header = list(MESSAGE_HEADER)
    for at, value in changes:
        header[at] = value
    event = attempt(lambda: decode_header(msgpack.packb(header)), HeaderError)
    declared = attempt(lambda: events._message.read(tuple(header[6:])), FieldError)
    assert isinstance(event, HeaderError) == isinstance(declared, FieldError)
    if isinstance(event, MessageEvent):
        assert list(event[4:]) == declared


def test_topics_end_in_nul() -> None:
    assert stream_topic(1, 10) == b"m/1/10\0"
    assert not stream_topic(1, 10).startswith(stream_topic(1, 1))
    assert stream_topic(2, 3) == stream_name(2, 3).encode() + b"\0"


def test_stream_names_are_read_back() -> None:
    assert parse_stream("m/1/65535") == (1, 65535)


@pytest.mark.parametrize(
    "name", ["", "p", "m/1", "m/1/2/3", "m/01/2", "m/-1/2", "m/1/65536", "m/1/2\0", "m/１/2"]
)
def test_refuses_what_is_not_a_stream_name(name: str) -> None:
    with pytest.raises(IpcError, match="stream"):
        parse_stream(name)


def test_health_of_a_mesh() -> None:
    assert [TopicHealth.of_mesh(peers) for peers in (0, 1, 3, 4)] == [
        "UNHEALTHY",
        "MINIMALLY_HEALTHY",
        "MINIMALLY_HEALTHY",
        "SUFFICIENTLY_HEALTHY",
    ]


def test_numbers_of_the_contract() -> None:
    assert EVENT_VERSION == 1
    assert [int(kind) for kind in EventKind] == [0, 1, 2, 3]
    assert (events.SOURCE_RELAY, events.SOURCE_FILTER, events.SOURCE_SELF) == (0, 1, 2)
    assert (events.HEALTH_TOPIC, events.PEERS_TOPIC) == (b"p\0", b"n\0")


def test_defaults_of_records() -> None:
    health = NodeHealth.from_body({"state": "READY", "protocols": [{"name": "relay", "state": "READY"}]})
    assert health.protocols == (ProtocolHealth(name="relay", state="READY"),)
    assert health.event_loop.lag_ms == 0.0
