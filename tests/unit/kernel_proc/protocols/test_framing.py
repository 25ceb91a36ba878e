from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from ipc_schema.protobuf import ProtobufError, fields, packed_varints
from kernel_proc.p2p.api import StreamClosed
from kernel_proc.protocols.framing import MessageReader, StreamFrameError, encode_frame
from tests.support.aio import trio_test


class Pieces:
    """A stream that hands out given pieces."""

    peer_id, protocol = "peer", "/x"

    def __init__(self, data: bytes, step: int = 1000) -> None:
        self._pieces = [data[at : at + step] for at in range(0, len(data), step)]

    async def read(self, max_bytes: int = 65536) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""

    async def consume(self, take: Callable[[bytes, int, int], bool]) -> bool:
        raise NotImplementedError

    async def write(self, data: bytes) -> None:
        raise NotImplementedError

    def write_now(self, data: bytes) -> bool:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError

    async def reset(self) -> None:
        raise NotImplementedError


@given(st.lists(st.binary(max_size=300), max_size=8), st.integers(1, 50))
def test_messages_come_back_in_order_however_they_are_cut(messages: list[bytes], step: int) -> None:
    async def main() -> None:
        reader = MessageReader(Pieces(b"".join(map(encode_frame, messages)), step), 300)
        for message in messages:
            assert await reader.read() == message
        assert await reader.read() is None

    trio.run(main)


@pytest.mark.parametrize("data", [b"\xad\x02", b"\xff\xff\xff\xff\xff\x01", b"\xff\xff\xff\xff\x0f"])
@trio_test()
async def test_excessive_length_is_an_error_before_reading(data: bytes) -> None:
    with pytest.raises(StreamFrameError):
        await MessageReader(Pieces(data), 300).read()


@pytest.mark.parametrize("data", [b"\x80", b"\x05ab"])
@trio_test()
async def test_the_end_in_mid_message_is_an_error(data: bytes) -> None:
    with pytest.raises(StreamClosed):
        await MessageReader(Pieces(data), 300).read()


def test_numbers_and_bytes_are_fields_and_fixed_widths_are_passed_over() -> None:
    body = bytes.fromhex("0896011203616263" + "19" + "01" * 8 + "25" + "02" * 4 + "2801")
    assert list(fields(body)) == [(1, 150), (2, b"abc"), (5, 1)]
    assert list(packed_varints(bytes.fromhex("0196 01".replace(" ", "")))) == [1, 150]


@pytest.mark.parametrize("hexed", ["08", "0880", "1205ab", "00", "0b", "19010101", "08" + "ff" * 11])
def test_invalid_protobuf_is_an_error(hexed: str) -> None:
    with pytest.raises(ProtobufError):
        list(fields(bytes.fromhex(hexed)))


@given(st.binary(max_size=60))
def test_any_bytes_are_fields_or_an_error(body: bytes) -> None:
    try:
        for number, _ in fields(body):
            assert number > 0
    except ProtobufError:
        return
