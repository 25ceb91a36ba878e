from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel_proc.p2p.varint import encode as encode_varint
from kernel_proc.relay.framing import FrameCutter, FrameTooLargeError, FramingError


def cut(cutter: FrameCutter, chunk: bytes) -> list[bytes]:
    return [buffer[start:stop] for buffer, start, stop in cutter.feed(chunk)]


@given(st.lists(st.binary(max_size=400)), st.lists(st.integers(1, 300), min_size=1))
def test_frames_come_out_as_they_went_in_however_they_are_chunked(
    bodies: list[bytes], sizes: list[int]
) -> None:
    wire = b"".join(encode_varint(len(b)) + b for b in bodies)
    cutter = FrameCutter(1000)
    got: list[bytes] = []
    turn = 0
    while wire:
        size = sizes[turn % len(sizes)]
        turn += 1
        got += cut(cutter, wire[:size])
        wire = wire[size:]
    assert got == bodies
    assert cutter.held == 0


def test_a_frame_at_the_limit_passes_and_one_byte_more_does_not() -> None:
    assert cut(FrameCutter(300), encode_varint(300) + bytes(300)) == [bytes(300)]
    with pytest.raises(FrameTooLargeError):
        FrameCutter(300).feed(encode_varint(301))


def test_an_endless_length_is_refused() -> None:
    cutter = FrameCutter(300)
    for _ in range(4):
        assert cut(cutter, b"\xff") == []
    with pytest.raises(FramingError):
        cutter.feed(b"\xff")


def test_a_part_of_a_larger_buffer_is_a_chunk() -> None:
    cutter = FrameCutter(1000)
    wire = b"".join(encode_varint(len(body)) + body for body in (b"one", bytes(500), b"three"))
    padded = b"\xff" * 7 + wire + b"\xff" * 7
    for middle in range(7, len(padded) - 7):
        frames = [*cutter.feed(padded, 7, middle), *cutter.feed(padded, middle, len(padded) - 7)]
        assert [buffer[start:stop] for buffer, start, stop in frames] == [b"one", bytes(500), b"three"]
        assert cutter.held == 0


def test_a_large_frame_is_joined_alone() -> None:
    """What follows it in the chunk that completes it is not copied with it."""
    cutter = FrameCutter(200_000)
    body = bytes(150_000)
    wire = encode_varint(len(body)) + body
    assert cutter.feed(wire[:100_000]) == []
    rest = wire[100_000:] + wire
    first, second = cutter.feed(rest)
    assert len(first[0]) == len(wire)
    assert second[0] is rest


def test_byte_by_byte_is_held_and_joined_once() -> None:
    """A large frame in tiny pieces costs linear time: the pieces are joined only when the frame is whole."""
    cutter = FrameCutter(50_000)
    body = bytes(50_000)
    wire = encode_varint(len(body)) + body
    for index in range(len(wire) - 1):
        assert not cutter.feed(wire[index : index + 1])
    assert cut(cutter, wire[-1:]) == [body]


def test_what_is_held_does_not_keep_much_larger_buffers() -> None:
    """One byte of a frame in each chunk of 64 KiB would otherwise hold gigabytes."""
    cutter = FrameCutter(200_000)
    cutter.feed(encode_varint(200_000))
    tracemalloc.start()
    try:
        for _ in range(1000):
            cutter.feed(bytes(65_536), 0, 1)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert cutter.held == 1003
    assert kept < 1_000_000
