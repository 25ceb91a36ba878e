from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel_proc.relay.framing import FrameCutter, FrameTooLargeError, FramingError
from kernel_proc.relay.rpc_writer import encode_varint


def cut(cutter: FrameCutter, chunk: bytes) -> list[bytes]:
    buffer, frames = cutter.feed(chunk)
    return [buffer[start:stop] for start, stop in frames]


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


def test_byte_by_byte_is_held_and_joined_once() -> None:
    """A large frame in tiny pieces costs linear time: the pieces are joined only when the frame is whole."""
    cutter = FrameCutter(200_000)
    body = bytes(200_000)
    wire = encode_varint(len(body)) + body
    joined = 0
    for index in range(len(wire)):
        buffer, frames = cutter.feed(wire[index : index + 1])
        joined += len(buffer)
    assert frames
    assert joined < len(wire) + 10
