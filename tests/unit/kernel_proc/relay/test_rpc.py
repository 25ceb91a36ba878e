"""The RPC codec: nwaku's frames, ours beside them, and any bytes at all."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel_proc.p2p.varint import encode as encode_varint
from kernel_proc.relay.rpc import Control, IHave, PeerInfo, Prune, RawMessage, Rpc, Subscription
from kernel_proc.relay.rpc_reader import RpcDecodeError, decode_rpc
from kernel_proc.relay.rpc_writer import (
    encode_control,
    encode_message,
    encode_subscriptions,
    message_rpc_size,
)

VECTORS = Path(__file__).parents[1] / "vectors" / "nwaku.json"
TOPIC = "/waku/2/rs/42/0"
LIMIT = 153_600


def nwaku_frames() -> dict[str, bytes]:
    """RPC bodies that nwaku wrote, without length prefix, by their notes."""
    frames = json.loads(VECTORS.read_text())
    return {f["note"]: bytes.fromhex(f["hex"]) for f in frames if f["protocol"] == "relay"}


def nwaku(note: str) -> bytes:
    return next(body for key, body in nwaku_frames().items() if key.startswith(note))


def body(frame: bytes) -> bytes:
    """The frame without its length prefix, which must be right."""
    size = shift = 0
    for index, byte in enumerate(frame):
        size |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            assert size == len(frame) - index - 1
            return frame[index + 1 :]
    raise AssertionError("no length prefix")


def read_control(data: bytes) -> Control:
    control = decode_rpc(data).control
    assert control is not None
    return control


def control_fields(control: Control) -> dict[str, object]:
    return {name: getattr(control, name) for name in Control.__annotations__}


def test_every_relay_frame_of_nwaku_decodes() -> None:
    frames = nwaku_frames()
    assert len(frames) == 8
    for data in frames.values():
        rpc = decode_rpc(data)
        assert rpc.subscriptions or rpc.messages or rpc.control


def test_subscribe_and_unsubscribe_as_nwaku() -> None:
    for note, subscribe in (("subscribe", True), ("unsubscribe", False)):
        assert decode_rpc(nwaku(note)).subscriptions == [Subscription(subscribe, TOPIC)]
        (frame,) = encode_subscriptions([Subscription(subscribe, TOPIC)], LIMIT)
        assert body(frame) == nwaku(note)


def test_graft_as_nwaku() -> None:
    assert read_control(nwaku("GRAFT")).graft == [TOPIC]
    control = Control()
    control.graft.append(TOPIC)
    assert [body(f) for f in encode_control(control, LIMIT)] == [nwaku("GRAFT")]


@pytest.mark.parametrize(("note", "seconds"), [("PRUNE backoff 5", 5), ("PRUNE backoff 60", 60)])
def test_prune_as_nwaku(note: str, seconds: int) -> None:
    assert read_control(nwaku(note)).prune == [Prune(TOPIC, seconds)]
    control = Control()
    control.prune.append(Prune(TOPIC, seconds))
    assert [body(f) for f in encode_control(control, LIMIT)] == [nwaku(note)]


def test_iwant_and_idontwant_as_nwaku() -> None:
    for name, note in (("iwant", "IWANT"), ("idontwant", "IDONTWANT")):
        ids = getattr(read_control(nwaku(note)), name)
        assert len(ids) == 1
        assert len(ids[0]) == 32
        control = Control()
        getattr(control, name).extend(ids)
        assert [body(f) for f in encode_control(control, LIMIT)] == [nwaku(note)]


def test_publish_as_nwaku() -> None:
    data = nwaku("publish")
    (message,) = decode_rpc(data).messages
    assert message.topic == TOPIC.encode()
    assert not message.signed
    assert sha256(message.data).hexdigest() == (
        "972d8aeab9edabb472913d11ac10e8392c4187010931f8e6106172d4a0c965dd"
    )
    assert body(encode_message(message.topic, message.data)) == data


@pytest.mark.parametrize("size", [0, 1, 100, 127, 128, 16_383, 16_384, 153_575])
def test_message_size_is_known_before_it_is_encoded(size: int) -> None:
    frame = body(encode_message(TOPIC.encode(), bytes(size)))
    assert message_rpc_size(TOPIC.encode(), size) == len(frame)
    assert decode_rpc(frame).messages == [RawMessage(TOPIC.encode(), bytes(size), False)]


def test_the_largest_message_that_nwaku_takes() -> None:
    """Measured there: 25 bytes around the data for a topic of 15 characters."""
    assert message_rpc_size(TOPIC.encode(), 153_575) == 153_600


@pytest.mark.parametrize("field", [1, 3, 5, 6])
def test_signing_fields_are_noticed(field: int) -> None:
    inner = b"\x12\x01d\x22\x01t"
    for value, signed in ((b"x", True), (b"", False)):
        message = inner + bytes([field << 3 | 2, len(value)]) + value
        assert decode_rpc(b"\x12" + bytes([len(message)]) + message).messages == [
            RawMessage(b"t", b"d", signed)
        ]


def test_unknown_fields_and_wrong_wire_types_are_skipped() -> None:
    junk = b"\xfa\x01\x02zz" + b"\x39" + bytes(8) + b"\x3d" + bytes(4) + b"\x10\x05"
    message = b"\x10\x01" + b"\x12\x01d" + b"\x22\x01t" + junk[:5]
    data = junk + b"\x12" + bytes([len(message)]) + message + junk
    assert decode_rpc(data) == Rpc((), [RawMessage(b"t", b"d", False)], None)


def test_prune_with_peers_and_a_wild_backoff() -> None:
    peers = tuple(PeerInfo(bytes([n]) * 38, b"record" * n) for n in range(40))
    control = Control()
    control.prune.append(Prune("t", 60, peers))
    (frame,) = encode_control(control, LIMIT)
    (prune,) = read_control(body(frame)).prune
    assert prune.peers == peers[:16]
    wild = b"\x22\x0d\x0a\x01t\x18" + b"\xff" * 8 + b"\x7f"
    wild = b"\x22" + bytes([len(wild) - 2]) + wild[2:]
    (prune,) = read_control(b"\x1a" + bytes([len(wild)]) + wild).prune
    assert prune.backoff == 3600


def test_prune_without_backoff_field() -> None:
    (prune,) = read_control(b"\x1a\x05\x22\x03\x0a\x01t").prune
    assert prune.backoff is None


def test_large_control_is_split_below_the_limit() -> None:
    limit = 2000
    control = Control()
    ids = [n.to_bytes(32, "big") for n in range(500)]
    control.ihave.append(IHave(TOPIC, ids))
    control.iwant.extend(ids)
    control.idontwant.extend(ids)
    control.graft.extend(f"/t/{n}" for n in range(100))
    frames = encode_control(control, limit)
    assert all(len(body(f)) <= limit for f in frames)
    parts = [read_control(body(f)) for f in frames]
    assert [i for part in parts for ihave in part.ihave for i in ihave.message_ids] == ids
    assert {ihave.topic for part in parts for ihave in part.ihave} == {TOPIC}
    assert [i for part in parts for i in part.iwant] == ids
    assert [i for part in parts for i in part.idontwant] == ids
    assert [t for part in parts for t in part.graft] == control.graft


@pytest.mark.parametrize("kind", ["ihave", "iwant", "idontwant", "graft", "prune"])
def test_no_rpc_has_more_control_than_rust_takes(kind: str) -> None:
    """rust-libp2p ends the stream at more than 16,384 bytes of control, whatever the largest RPC may be."""
    control = Control()
    ids = [n.to_bytes(32, "big") for n in range(6000)]
    peers = tuple(PeerInfo(n.to_bytes(38, "big"), bytes(2000)) for n in range(16))
    entries: dict[str, list[object]] = {
        "ihave": [IHave(TOPIC, ids)],
        "iwant": list(ids),
        "idontwant": list(ids),
        "graft": [f"/waku/2/rs/42/{n}" for n in range(3000)],
        "prune": [Prune(f"/waku/2/rs/42/{n}", 60, peers) for n in range(20)],
    }
    setattr(control, kind, entries[kind])
    frames = encode_control(control, LIMIT)
    assert 10_000 < max(len(body(f)) for f in frames) <= 16_384
    parts = [read_control(body(f)) for f in frames]
    if kind == "ihave":
        assert [i for part in parts for ihave in part.ihave for i in ihave.message_ids] == ids
    else:
        names = [getattr(e, "topic", e) for e in entries[kind]]
        assert [getattr(e, "topic", e) for part in parts for e in getattr(part, kind)] == names


def test_no_rpc_has_more_than_a_hundred_subscriptions() -> None:
    subscriptions = [Subscription(True, f"/t/{n}") for n in range(1001)]
    frames = encode_subscriptions(subscriptions, LIMIT)
    sizes = [len(decode_rpc(body(f)).subscriptions) for f in frames]
    assert (max(sizes), sum(sizes), len(sizes)) == (100, 1001, 11)


def test_many_subscriptions_are_split_below_the_limit() -> None:
    subscriptions = [Subscription(True, f"/topic/{n}") for n in range(1000)]
    frames = encode_subscriptions(subscriptions, 1500)
    assert all(len(body(f)) <= 1500 for f in frames)
    assert [s for f in frames for s in decode_rpc(body(f)).subscriptions] == subscriptions


@pytest.mark.parametrize(
    "data",
    [
        b"\x12",
        b"\x12\x05ab",
        b"\x12\x03\x12\x02a",
        b"\x0a\x03\x12\x01\xff",
        b"\x1a\x04\x1a\x02\x0a\x05",
        b"\x0b",
        b"\x07\x00",
        b"\x02\x00",
        b"\x08" + b"\xff" * 10 + b"\x01",
        b"\x12" + b"\xff" * 9 + b"\x01",
        b"\x39\x00",
    ],
)
def test_no_rpc(data: bytes) -> None:
    with pytest.raises(RpcDecodeError):
        decode_rpc(data)


@pytest.mark.parametrize("kind", ["ihave", "iwant", "idontwant", "graft", "prune", "subscription"])
def test_ids_and_topics_that_are_too_long_to_keep_are_refused(kind: str) -> None:
    """The router keeps thousands for each peer, of which one alone could fill a message."""
    for size, good in ((1024, kind not in ("iwant", "idontwant")), (1025, False)):
        long, control = "/" * size, Control()
        entry = {"ihave": IHave(long, [b"id"]), "prune": Prune(long, None), "graft": long}
        getattr(control, kind, []).append(entry.get(kind, long.encode()))
        frames = encode_control(control, LIMIT) or encode_subscriptions([Subscription(True, long)], LIMIT)
        if good:
            assert decode_rpc(body(frames[0])) != decode_rpc(b"")
        else:
            with pytest.raises(RpcDecodeError, match="bytes"):
                decode_rpc(body(frames[0]))
    control = Control()
    control.ihave.append(IHave(TOPIC, [bytes(65)]))
    with pytest.raises(RpcDecodeError, match="message id of 65 bytes"):
        decode_rpc(body(encode_control(control, LIMIT)[0]))


@given(st.binary(max_size=300))
def test_any_bytes_give_a_value_or_a_typed_error(data: bytes) -> None:
    try:
        rpc = decode_rpc(data)
    except RpcDecodeError:
        return
    assert all(isinstance(m.data, bytes) and len(m.data) <= len(data) for m in rpc.messages)


@given(st.data())
def test_a_damaged_frame_gives_a_value_or_a_typed_error(data: st.DataObject) -> None:
    frame = bytearray(data.draw(st.sampled_from(sorted(nwaku_frames().values()))))
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(frame)))
    try:
        decode_rpc(bytes(frame[:cut]))
    except RpcDecodeError:
        return


@given(st.binary(max_size=20), st.lists(st.tuples(st.text(max_size=5), st.binary(max_size=200))), st.binary())
def test_decoding_stays_inside_its_frame(
    before: bytes, messages: list[tuple[str, bytes]], after: bytes
) -> None:
    """Frames are read in place: neighbours in the buffer never leak in."""
    wire = b"".join(body(encode_message(t.encode(), d)) for t, d in messages)
    rpc = decode_rpc(before + wire + after, len(before), len(before) + len(wire))
    assert rpc.messages == [RawMessage(t.encode(), d, False) for t, d in messages]


topics = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=30)
ids = st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=8)


@given(
    st.lists(topics),
    st.lists(st.builds(Prune, topics, st.none() | st.integers(0, 3600), st.just(()))),
    st.lists(st.builds(IHave, topics, ids)),
    ids,
    ids,
)
def test_control_round_trip(
    graft: list[str], prune: list[Prune], ihave: list[IHave], iwant: list[bytes], idontwant: list[bytes]
) -> None:
    control = Control()
    control.graft, control.prune, control.ihave = graft, prune, ihave
    control.iwant, control.idontwant = iwant, idontwant
    (frame,) = encode_control(control, LIMIT)
    assert control_fields(read_control(body(frame))) == control_fields(control)


@given(st.integers(0, 2**64 - 1))
def test_varint_is_what_the_decoder_reads(value: int) -> None:
    prune = b"\x0a\x01t\x18" + encode_varint(value)
    entry = b"\x22" + encode_varint(len(prune)) + prune
    (read,) = read_control(b"\x1a" + encode_varint(len(entry)) + entry).prune
    assert read.backoff == min(value, 3600)
