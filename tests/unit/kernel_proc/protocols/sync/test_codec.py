"""The payload of reconciliation: vectors of its bytes as nwaku writes it, and whatever bytes arrive."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipc_schema.protobuf import ProtobufError
from kernel_proc.protocols.sync.codec import (
    ItemSet,
    RangeKind,
    SyncCodecError,
    SyncPayload,
    SyncRange,
    decode_payload,
    encode_payload,
)
from kernel_proc.protocols.sync.keys import MAX_TIME, hash_of, key_at, make_key, time_of
from kernel_proc.protocols.sync.transfer_codec import decode_transfer, encode_transfer

T = 1_700_000_000_000_000_000
T_HEX = "8080A8B1E39FE7CB17"
F = bytes(range(32))
HOUR = 3_600_000_000_000
ONES, TWOS = b"\x11" * 32, b"\x22" * 32

VECTORS = {
    "0000 8080A8B1E39FE7CB17 80C0E285E368 01" + F.hex(): SyncPayload(
        ranges=[SyncRange(key_at(T), key_at(T + HOUR), F)]
    ),
    "010E2F77616B752F322F72732F312F3000 8080A8B1E39FE7CB17 80C0E285E368 01" + F.hex(): SyncPayload(
        ("/waku/2/rs/1/0",), (), [SyncRange(key_at(T), key_at(T + HOUR), F)]
    ),
    "0000 8080A8B1E39FE7CB17 E80700 E8070202 8580A8B1E39FE7CB17" + "11" * 32 + "00" + "22" * 32 + "00": (
        SyncPayload(
            ranges=[
                SyncRange(key_at(T), key_at(T + 1000)),
                SyncRange(
                    key_at(T + 1000),
                    key_at(T + 2000),
                    ItemSet([make_key(T + 5, ONES), make_key(T + 5, TWOS)], reconciled=False),
                ),
            ]
        )
    ),
    "0000 8080A8B1E39FE7CB17 E807 02 00 01": SyncPayload(
        ranges=[SyncRange(key_at(T), key_at(T + 1000), ItemSet([], reconciled=True))]
    ),
    # by hand: content topics too, a bound within one nanosecond (two bytes of 00AB…), and one of the next
    "0102 2F61 01 02 2F62 8080A8B1E39FE7CB17 00 02 00AB 00 01 00": SyncPayload(
        ("/a",),
        ("/b",),
        [
            SyncRange(key_at(T), make_key(T, b"\0\xab" + bytes(30))),
            SyncRange(key_at(T), key_at(T + 1)),
        ],
    ),
    # a bound whose hash differs from zeros in its first byte: one byte of it
    "0000 8080A8B1E39FE7CB17 00 01 FF 01" + F.hex(): SyncPayload(
        ranges=[SyncRange(key_at(T), make_key(T, b"\xff" + bytes(31)), F)]
    ),
    # elements of two times: the second one is a difference of 300 (AC02)
    "0000 8080A8B1E39FE7CB17 E807 02 02 8080A8B1E39FE7CB17" + "11" * 32 + "AC02" + "22" * 32 + "01": (
        SyncPayload(
            ranges=[
                SyncRange(
                    key_at(T),
                    key_at(T + 1000),
                    ItemSet([make_key(T, ONES), make_key(T + 300, TWOS)], reconciled=True),
                )
            ]
        )
    ),
}


@pytest.mark.parametrize("text", VECTORS, ids=range(len(VECTORS)))
def test_the_vectors_read_and_write_the_same_bytes(text: str) -> None:
    frame = bytes.fromhex(text)
    assert T_HEX in text
    assert encode_payload(VECTORS[text]) == frame
    found = decode_payload(frame)
    assert found == VECTORS[text]
    assert [one.kind for one in found.ranges] == [RangeKind(one.kind) for one in VECTORS[text].ranges]


def test_no_ranges_is_one_byte_and_an_empty_frame_is_the_same() -> None:
    assert encode_payload(SyncPayload()) == b"\0"
    assert encode_payload(SyncPayload(("/waku/2/rs/1/0",))) == b"\0"
    for frame in (b"", b"\0", b"\x01"):
        assert decode_payload(frame) == SyncPayload()


@pytest.mark.parametrize(
    ("text", "reason"),
    {
        "0000" + T_HEX: None,  # topics and a bound, no range: nothing to do
        "0000" + T_HEX + "E807": "truncated",
        "0000" + T_HEX + "E80703": "range type 3",
        "0000" + T_HEX + "E80701" + "11" * 31: "truncated",
        "0000" + T_HEX + "E8070201" + T_HEX + "11" * 32: "truncated",
        "0000" + T_HEX + "E80702FFFFFFFF0F": "truncated",
        "0000" + T_HEX + "E807020002": "2 for reconciled",
        "0000" + T_HEX + "0021" + "11" * 33 + "00": "33 bytes of a hash",
        "0000" + "FF" * 9 + "01" + "0000": "timestamp above int64",
        "0000" + "FF" * 8 + "7F" + "0100": "timestamp above int64",
        "0000" + "80" * 10 + "01": "number longer than 10 bytes",
        "8108": "1025 topics, the maximum is 1024",
        "01FF7F": "a topic of 16383 bytes",
        "0102FFFE00": "a topic is not UTF-8",
    }.items(),
)
def test_malformed_frames_are_refused(text: str, reason: str | None) -> None:
    if reason is None:
        assert decode_payload(bytes.fromhex(text)).ranges == []
        return
    with pytest.raises(SyncCodecError, match=reason):
        decode_payload(bytes.fromhex(text))


HASHES = st.binary(min_size=32, max_size=32)
TIMES = st.integers(0, MAX_TIME)
NAMES = st.lists(st.text(max_size=20), max_size=3).map(tuple)


@st.composite
def payloads(draw: st.DrawFn) -> SyncPayload:
    """Any payload that we could write."""
    bounds = sorted(draw(st.lists(TIMES, min_size=2, max_size=6)))
    ranges = []
    for low, high in itertools.pairwise(bounds):
        keys = sorted(make_key(*one) for one in draw(st.lists(st.tuples(TIMES, HASHES), max_size=4)))
        content = draw(st.none() | HASHES | st.just(ItemSet(keys, reconciled=draw(st.booleans()))))
        # the hash of a bound is only sent within one nanosecond, up to its first byte that is not 0
        digest = bytes(draw(st.integers(0, 30))) + b"\x01" if low == high else b""
        ranges.append(SyncRange(key_at(low), make_key(high, digest.ljust(32, b"\0")), content))
    return SyncPayload(draw(NAMES), draw(NAMES), ranges)


@given(payloads())
def test_what_is_written_reads_the_same(payload: SyncPayload) -> None:
    assert decode_payload(encode_payload(payload)) == payload


@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda rest: b"\0\0" + rest))
def test_any_bytes_read_or_are_refused(frame: bytes) -> None:
    try:
        payload = decode_payload(frame)
    except SyncCodecError:
        return
    again = encode_payload(payload)
    assert decode_payload(again) == payload or not payload.ranges
    for one in payload.ranges:
        assert one.low <= one.high


def test_keys_order_like_sync_ids() -> None:
    key = make_key(5, ONES)
    assert (time_of(key), hash_of(key)) == (5, ONES)
    assert key_at(5) < key < make_key(5, TWOS) < key_at(6) < key_at(256) <= make_key(256, bytes(32))


def test_a_transferred_message_has_its_topic_first() -> None:
    frame = encode_transfer("/waku/2/rs/1/0", b"message")
    assert frame.hex() == "0a0e2f77616b752f322f72732f312f3012076d657373616765"
    assert decode_transfer(frame) == ("/waku/2/rs/1/0", b"message")
    for bad in (b"", b"\x0a\x01/", b"\x12\x01m", b"\x0a\x05"):
        with pytest.raises(ProtobufError):
            decode_transfer(bad)
