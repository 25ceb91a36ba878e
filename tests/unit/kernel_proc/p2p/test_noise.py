from __future__ import annotations

import os

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from kernel_proc.p2p._errors import ConnectionEnded, ProtocolViolation
from kernel_proc.p2p._libp2p import ID
from kernel_proc.p2p.buffered import BufferedTransport, ByteStream
from kernel_proc.p2p.noise import MAX_PLAINTEXT, NoiseSecurity, SecureChannel
from tests.support.aio import trio_test
from tests.unit.kernel_proc.p2p.support import KEYS, channels


class Counting:
    """A transport that counts its calls and can hand bytes out in small pieces."""

    def __init__(self, stream: ByteStream, piece: int = 1 << 20) -> None:
        self._stream = stream
        self._piece = piece
        self.reads = 0
        self.writes = 0

    async def receive_some(self, max_bytes: int) -> bytes | bytearray:
        self.reads += 1
        return await self._stream.receive_some(min(max_bytes, self._piece))

    async def send_all(self, data: bytes) -> None:
        self.writes += 1
        await self._stream.send_all(data)

    async def aclose(self) -> None:
        await self._stream.aclose()


async def handshake(piece: int = 1 << 20, expected: int | None = 1) -> tuple[SecureChannel, SecureChannel]:
    """Handshake of KEYS[0] with KEYS[1], bytes arriving `piece` at a time."""
    left, right = trio.testing.memory_stream_pair()
    made: dict[bool, SecureChannel] = {}

    async def side(stream: ByteStream, key: int, initiator: bool) -> None:
        security = NoiseSecurity(KEYS[key].libp2p_key_pair())
        peer = ID.from_base58(KEYS[expected].peer_id) if initiator and expected is not None else None
        transport = BufferedTransport(Counting(stream, piece))
        with trio.fail_after(5):
            try:
                made[initiator] = await security.handshake(transport, initiator=initiator, expected=peer)
            finally:
                if initiator not in made:
                    await stream.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(side, left, 0, True)
        nursery.start_soon(side, right, 1, False)
    return made[True], made[False]


@trio_test()
async def test_both_sides_know_the_remote_peer() -> None:
    near, far = await handshake()
    assert (near.remote_peer.to_base58(), far.remote_peer.to_base58()) == (KEYS[1].peer_id, KEYS[0].peer_id)
    assert far.feed(near.seal([b"to", b"gether"])) == [b"together"]
    assert near.feed(far.seal([b"back"])) == [b"back"]


@trio_test()
async def test_a_handshake_in_more_than_a_hundred_pieces_succeeds() -> None:
    # py-libp2p's read_exactly gives up after 100 partial reads; the second message alone has over 200 bytes.
    near, far = await handshake(piece=1)
    assert far.feed(near.seal([b"x"])) == [b"x"]


@trio_test()
async def test_another_peer_than_expected_is_refused() -> None:
    with pytest.RaisesGroup(pytest.RaisesExc(Exception, match="peer id does not correspond")):
        await handshake(expected=2)


def test_pieces_are_joined_into_one_message_and_one_write_each() -> None:
    near, far = (ends := trio.run(_channels))
    assert ends
    wire = near.seal([b"h" * 12, b"b" * 65507])
    assert len(wire) == 2 + 65535  # header and body in one noise message of the largest size
    assert far.feed(wire) == [b"h" * 12 + b"b" * 65507]
    wire = near.seal([b"a" * 40000, b"b" * 40000, b"c" * 10])
    assert far.feed(wire) == [b"a" * 40000, b"b" * 40000 + b"c" * 10]


def test_more_than_a_message_is_split() -> None:
    near, far = trio.run(_channels)
    data = os.urandom(3 * MAX_PLAINTEXT + 5)
    pieces = far.feed(near.seal([b"before", data, b"after"]))
    assert b"".join(pieces) == b"before" + data + b"after"
    assert max(map(len, pieces)) == MAX_PLAINTEXT


@given(st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=20), st.integers(1, 50))
def test_frames_survive_any_cut_of_the_stream(messages: list[bytes], step: int) -> None:
    near, far = trio.run(_channels)
    wire = b"".join(near.seal([message]) for message in messages)
    got = [piece for at in range(0, len(wire), step) for piece in far.feed(wire[at : at + step])]
    assert got == messages


def test_a_changed_byte_is_a_violation() -> None:
    for at in (2, 10, -1):
        near, far = trio.run(_channels)
        wire = bytearray(near.seal([b"payload of some length"]))
        wire[at] ^= 1
        with pytest.raises(ProtocolViolation):
            far.feed(wire)


def test_a_frame_too_short_for_its_tag_is_a_violation() -> None:
    _, far = trio.run(_channels)
    with pytest.raises(ProtocolViolation):
        far.feed(b"\x00\x04abcd")


@trio_test()
async def test_one_read_feeds_many_frames() -> None:
    near, far = channels()
    counting = Counting(far.stream)
    far.stream = counting
    await near.stream.send_all(b"".join(near.seal([b"%d" % n]) for n in range(1000)))
    got: list[bytes] = []
    while len(got) < 1000:
        got += await far.receive()
    assert got == [b"%d" % n for n in range(1000)]
    assert counting.reads <= 3


@trio_test()
async def test_exact_reads_leave_the_rest_for_the_muxer() -> None:
    near, far = channels()
    await near.stream.send_all(near.seal([b"negotiation"]) + near.seal([b"first frame"]))
    assert await far.read_exactly(5) == b"negot"
    assert await far.read_exactly(6) == b"iation"
    assert b"".join(await far.receive()) == b"first frame"
    await near.stream.aclose()
    assert await far.receive() == []


@trio_test()
async def test_the_end_in_an_exact_read_is_an_error() -> None:
    near, far = channels()
    await near.stream.send_all(near.seal([b"ab"]))
    await near.stream.aclose()
    with pytest.raises(ConnectionEnded):
        await far.read_exactly(3)


async def _channels() -> tuple[SecureChannel, SecureChannel]:
    return channels()
