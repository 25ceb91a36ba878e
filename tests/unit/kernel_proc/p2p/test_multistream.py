from __future__ import annotations

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from kernel_proc.p2p._errors import ConnectionEnded, NegotiationFailed, ProtocolViolation
from kernel_proc.p2p.buffered import BufferedTransport
from kernel_proc.p2p.multistream import (
    HEADER,
    MAX_PROPOSALS,
    answer_select,
    encode_message,
    read_message,
    select_one_of,
)
from tests.support.aio import trio_test


class Replay:
    """Reads from given bytes, records writes."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.written = b""

    async def read_exactly(self, count: int) -> bytes:
        if len(self._data) < count:
            raise ConnectionEnded("closed by peer")
        taken, self._data = self._data[:count], self._data[count:]
        return taken

    async def write(self, data: bytes) -> None:
        self.written += data


async def agree(offered: tuple[str, ...], supported: tuple[str, ...]) -> list[str]:
    left, right = trio.testing.memory_stream_pair()
    agreed: list[str] = []

    async def initiate() -> None:
        agreed.append(await select_one_of(BufferedTransport(left), offered))

    async def answer() -> None:
        agreed.append(await answer_select(BufferedTransport(right), supported))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(initiate)
        nursery.start_soon(answer)
    return agreed


@trio_test()
async def test_both_sides_agree_on_the_first_that_the_answering_side_speaks() -> None:
    assert await agree(("/a", "/b", "/c"), ("/c", "/b")) == ["/b", "/b"]


@trio_test()
async def test_one_write_carries_header_and_first_proposal() -> None:
    stream = Replay(encode_message(HEADER) + encode_message("/a"))
    assert await select_one_of(stream, ("/a",)) == "/a"
    assert stream.written == b"\x13/multistream/1.0.0\n\x03/a\n"


@trio_test()
async def test_the_answering_side_sends_its_header_before_a_proposal_has_come() -> None:
    stream = Replay(encode_message(HEADER))
    with pytest.raises(ConnectionEnded):
        await answer_select(stream, ("/a",))
    assert stream.written == encode_message(HEADER)


@trio_test()
async def test_no_common_protocol() -> None:
    with pytest.raises(NegotiationFailed):
        await select_one_of(Replay(encode_message(HEADER) + 2 * encode_message("na")), ("/a", "/b"))


@trio_test()
async def test_endless_proposals_are_ended() -> None:
    stream = Replay(encode_message(HEADER) + (MAX_PROPOSALS + 1) * encode_message("/x"))
    with pytest.raises(NegotiationFailed):
        await answer_select(stream, ("/a",))


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff\xff\x7f",
        b"\x00",
        b"\x81\x08" + b"x" * 1025,
        b"\x04/abc",
        b"\x03\xff\xff\n",
        b"\x80\x80\x80\x01",
    ],
)
@trio_test()
async def test_invalid_messages_are_violations(data: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        await read_message(Replay(data))


@given(st.binary(max_size=300))
def test_any_bytes_give_a_protocol_or_a_known_error(data: bytes) -> None:
    async def main() -> None:
        with pytest.raises((ConnectionEnded, NegotiationFailed)):
            await answer_select(Replay(data), ("/a",))

    trio.run(main)


@given(st.text(max_size=900).filter(lambda text: len(text.encode()) < 1000))
def test_messages_come_back_as_they_were(text: str) -> None:
    async def main() -> None:
        assert await read_message(Replay(encode_message(text))) == text

    trio.run(main)
