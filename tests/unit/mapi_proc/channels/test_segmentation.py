"""Segments: byte vectors (LIP-243), older forms, splitting and joining under loss, bounds."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapi_proc.channels.keccak import keccak256
from mapi_proc.channels.segmentation import join as join_module
from mapi_proc.channels.segmentation.join import Joined, Joiner, JoinLimits
from mapi_proc.channels.segmentation.message import (
    UNKNOWN_LENGTH,
    SegmentError,
    SegmentMessage,
    decode_segment,
    encode_segment,
)
from mapi_proc.channels.segmentation.split import (
    PayloadTooLargeError,
    SplitLimits,
    parity_count,
    split_payload,
)
from tests.unit.mapi_proc.channels.wire import put_bytes, put_varint

HASH = bytes(range(32))
SMALL = SplitLimits(segment_size=192)
SMALL_PARITY = SplitLimits(segment_size=192, parity_rate=0.5)


def join(segments: list[bytes], joiner: Joiner | None = None) -> list[Joined]:
    joiner = joiner or Joiner(JoinLimits())
    results = [
        joiner.add("alice", decode_segment(segment), str(i), 0.0) for i, segment in enumerate(segments)
    ]
    return [result.joined for result in results if result.joined]


@pytest.mark.parametrize(
    ("segment", "hexadecimal"),
    [
        (SegmentMessage(HASH, 500, 1, 3, 0, False, b"\xaa\xbb\xcc"), "10f403180120033a03aabbcc"),
        (SegmentMessage(HASH, 500, 0, 3, 1, True, b"\x11\x22"), "10f4032003280130013a021122"),
        (SegmentMessage(HASH, 0, 0, 1, 0, False, b""), "2001"),
    ],
)
def test_wire_vectors(segment: SegmentMessage, hexadecimal: str) -> None:
    wire = bytes.fromhex("0a20" + HASH.hex() + hexadecimal)
    assert encode_segment(segment) == wire
    assert decode_segment(wire) == segment


def test_the_earlier_text_of_the_lip_is_read() -> None:
    data = put_bytes(1, HASH) + put_varint(2, 1) + put_varint(3, 2) + put_bytes(4, b"chunk")
    assert decode_segment(data) == SegmentMessage(HASH, UNKNOWN_LENGTH, 1, 2, 0, False, b"chunk")
    parity = b"".join(
        (put_bytes(1, HASH), put_varint(3, 2), put_bytes(4, b"p"), put_varint(5, 0), put_varint(6, 1))
    )
    wire = parity + put_varint(7, 1)
    assert decode_segment(wire) == SegmentMessage(HASH, UNKNOWN_LENGTH, 0, 2, 1, True, b"p")


def test_the_form_in_between_is_read() -> None:
    wire = b"".join(
        (put_bytes(1, HASH), put_varint(2, 9), put_varint(3, 1), put_varint(4, 2), put_bytes(6, b"c"))
    )
    assert decode_segment(wire) == SegmentMessage(HASH, 9, 1, 2, 0, False, b"c")


@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        (b"", "Undecodable"),
        (b"hello", "Undecodable"),
        (put_varint(4, 1), "Undecodable"),
        (put_bytes(1, HASH[:31]) + put_varint(4, 1), "Invalid"),
        (put_bytes(1, HASH), "Invalid"),
        (put_bytes(1, HASH) + put_varint(3, 1) + put_varint(4, 1), "Invalid"),
        (put_bytes(1, HASH) + put_varint(4, 1) + put_varint(6, 1), "Invalid"),
        (put_bytes(1, HASH) + put_varint(4, 2**32), "Invalid"),
    ],
)
def test_what_is_not_a_segment(wire: bytes, reason: str) -> None:
    with pytest.raises(SegmentError) as caught:
        decode_segment(wire)
    assert caught.value.reason == reason


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_refused(data: bytes) -> None:
    for wire in (data, put_bytes(1, HASH) + data):
        try:
            segment = decode_segment(wire)
        except SegmentError:
            continue
        Joiner(JoinLimits()).add("x", segment, "t", 0.0)


@pytest.mark.parametrize(
    ("data", "rate", "expected"),
    [(8, 0.125, 1), (9, 0.125, 2), (3, 1.0, 3), (3, 0.0, 0), (10, 0.01, 1), (1, 0.5, 1)],
)
def test_parity_counts(data: int, rate: float, expected: int) -> None:
    assert parity_count(data, rate) == expected


@settings(max_examples=80)
@given(
    st.binary(max_size=1500),
    st.sampled_from([SMALL, SMALL_PARITY]),
    st.data(),
)
def test_split_and_joined_under_loss_and_any_order(
    payload: bytes, limits: SplitLimits, draw: st.DataObject
) -> None:
    segments = split_payload(payload, limits)
    assert all(len(segment) <= limits.segment_size for segment in segments)
    parity = decode_segment(segments[0]).parity_count
    lost = draw.draw(st.sets(st.integers(0, len(segments) - 1), max_size=parity))
    left = draw.draw(st.permutations([s for i, s in enumerate(segments) if i not in lost]))
    left += draw.draw(st.lists(st.sampled_from(left), max_size=5)) if parity else []
    assert [joined.payload for joined in join(left)][:1] == [payload]


def test_left_over_parity_does_not_begin_the_payload_again() -> None:
    *enough, late, later = split_payload(bytes(64 * 4), SMALL_PARITY)
    joiner = Joiner(JoinLimits())
    assert len(join(enough, joiner)) == 1
    for segment in (late, later):
        assert joiner.add("alice", decode_segment(segment), "t", 0.0).refused == "duplicate_segment"
    assert joiner.sets == 0


def test_the_same_payload_sent_twice_is_two_payloads() -> None:
    joiner = Joiner(JoinLimits())
    for parity in (SMALL, SMALL_PARITY):
        assert len(join(split_payload(bytes(300), parity) * 2, joiner)) == 2


def test_the_same_payload_of_two_senders_is_two_payloads() -> None:
    first, second = (decode_segment(segment) for segment in split_payload(bytes(100), SMALL))
    joiner = Joiner(JoinLimits())
    assert joiner.add("alice", first, "a", 0.0).held
    assert joiner.add("bob", second, "b", 0.0).held
    assert joiner.sets == 2


def test_a_payload_that_is_not_what_its_hash_says_is_dropped() -> None:
    first, second = (decode_segment(segment) for segment in split_payload(bytes(100), SMALL))
    joiner = Joiner(JoinLimits())
    joiner.add("alice", first, "a", 0.0)
    (dropped,) = joiner.add("alice", second._replace(payload=b"x" * 36), "b", 0.0).dropped
    assert (dropped.reason, dropped.tags) == ("HashMismatch", ("a", "b"))
    assert joiner.buffered_bytes == 0


def test_a_set_expires_only_without_new_segments() -> None:
    first, second, _ = (decode_segment(segment) for segment in split_payload(bytes(150), SMALL))
    joiner = Joiner(JoinLimits(timeout=300))
    joiner.add("alice", first, "a", 0.0)
    joiner.add("alice", first, "repeated", 200.0)
    joiner.add("alice", second, "b", 250.0)
    assert joiner.sweep(500.0) == []
    (dropped,) = joiner.sweep(550.0)
    assert (dropped.reason, dropped.tags) == ("Expired", ("a", "b"))
    assert joiner.sweep(1000.0) == []


def test_the_oldest_sets_go_when_there_is_no_room() -> None:
    def begin(joiner: Joiner, number: int) -> list[str]:
        first = decode_segment(split_payload(number.to_bytes(200, "big"), SMALL)[0])
        return [dropped.tags[0] for dropped in joiner.add("alice", first, str(number), 0.0).dropped]

    by_count = Joiner(JoinLimits(max_sets=2))
    assert [begin(by_count, number) for number in range(4)] == [[], [], ["0"], ["1"]]
    by_bytes = Joiner(JoinLimits(max_bytes=150))
    assert [begin(by_bytes, number) for number in range(4)] == [[], [], ["0"], ["1"]]
    assert by_bytes.buffered_bytes == 128


def test_counts_and_sizes_that_do_not_fit_are_refused() -> None:
    joiner = Joiner(JoinLimits(max_segments=4, max_chunk=64))
    segment = SegmentMessage(HASH, 100, 0, 2, 0, False, bytes(64))
    refused = {"refused": "invalid_segment", "held": False, "joined": None, "dropped": ()}
    for bad in (
        segment._replace(data_count=5),
        segment._replace(payload_length=129),
        segment._replace(payload_length=1),
        segment._replace(payload_length=0),
    ):
        assert joiner.add("alice", bad, "t", 0.0)._asdict() == refused
    oversized = segment._replace(payload=bytes(65))
    assert joiner.add("alice", oversized, "t", 0.0).refused == "oversized_segment"
    assert joiner.add("alice", segment, "t", 0.0).held
    another = segment._replace(data_count=3, position=2)
    assert joiner.add("alice", another, "t", 0.0).refused == "segment_count"


def test_the_earlier_form_recovers_a_last_chunk_of_unknown_length() -> None:
    payload = bytes(range(100)) + b"\0\0"
    new = [decode_segment(segment) for segment in split_payload(payload, SMALL_PARITY)]
    old = [segment._replace(payload_length=UNKNOWN_LENGTH) for segment in new]
    joiner = Joiner(JoinLimits())
    joiner.add("alice", old[0], "a", 0.0)
    joined = joiner.add("alice", old[2], "p", 0.0).joined
    assert joined is not None
    assert joined.payload == payload


def test_zeros_at_the_end_of_a_recovered_payload_do_not_cost_its_whole_hash_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """64 hashes of 32 MB, with which a stranger stopped the process for four seconds."""
    hashed = 0

    def counting(*parts: bytes) -> bytes:
        nonlocal hashed
        hashed += 1
        return keccak256(*parts)

    monkeypatch.setattr(join_module, "keccak256", counting)
    payload = bytes(range(100)) + bytes(60)
    new = [decode_segment(segment) for segment in split_payload(payload, SMALL_PARITY)]
    for wrong in (b"", HASH):
        old = [one._replace(payload_length=UNKNOWN_LENGTH, payload_hash=wrong or one[0]) for one in new]
        joiner = Joiner(JoinLimits())
        for segment in [*old[:2], old[3]]:
            result = joiner.add("alice", segment, str(segment.position), 0.0)
        assert (result.joined is None) == bool(wrong)
        assert result.joined is None or result.joined.payload == payload
    assert hashed <= 2


def test_a_payload_that_needs_too_many_segments() -> None:
    with pytest.raises(PayloadTooLargeError, match="need 300 \\+ 0 segments, at most 256"):
        split_payload(bytes(64 * 300), SMALL)


@pytest.mark.parametrize("bad", [{"segment_size": 191}, {"parity_rate": 1.1}, {"max_segments": 0}])
def test_limits_are_checked(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        SplitLimits(**bad)  # type: ignore[arg-type]


def test_twenty_megabytes_with_a_tenth_lost_are_joined() -> None:
    # About 0.3 s; a loop over bytes would run into the test's time limit.
    payload = b"".join(keccak256(bytes([i])) for i in range(256)) * (20 * 1024 * 1024 // 8192)
    segments = split_payload(payload, SplitLimits(parity_rate=0.125))
    assert len(segments) == 206 + 26
    (joined,) = join([segment for i, segment in enumerate(segments) if i % 9])
    assert joined.payload == payload
    assert all(a < b for a, b in pairwise(sorted(int(tag) for tag in joined.tags)))
