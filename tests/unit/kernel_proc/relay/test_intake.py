"""The reader of a peer on a stream in memory: whatever the bytes, however they are cut."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from ipc_schema.message import WakuMessage, encode_message
from kernel_proc.p2p.varint import encode as encode_varint
from kernel_proc.relay.intake import Intake
from kernel_proc.relay.messages import RelayMessage
from kernel_proc.relay.params import GossipParams, RelayParams, ScoreParams
from kernel_proc.relay.router import Router
from kernel_proc.relay.rpc_writer import encode_message as encode_rpc
from kernel_proc.relay.service import COUNTERS
from tests.support.aio import trio_test

T = "t"


class MemoryStream:
    """Gives out its chunks, then EOF."""

    peer_id = "p"
    protocol = ""

    def __init__(self, chunks: list[bytes]) -> None:
        self._chunks = [chunk for chunk in chunks if chunk]
        self.was_reset = False

    async def read(self, max_bytes: int = 65536) -> bytes:
        await trio.lowlevel.checkpoint()
        return self._chunks.pop(0) if self._chunks else b""

    async def consume(self, take: Callable[[bytes, int, int], bool]) -> bool:
        while data := await self.read():
            if not take(data, 0, len(data)):
                return True
        return False

    async def write(self, data: bytes) -> None:
        raise AssertionError("never written to")

    def write_now(self, data: bytes) -> bool:
        raise NotImplementedError

    async def close(self) -> None:
        raise AssertionError("never closed")

    async def reset(self) -> None:
        self.was_reset = True


class Reader:
    """An intake with one peer, subscribed to one topic."""

    def __init__(self, max_hold: float = 0.005) -> None:
        self.router = Router(GossipParams(), ScoreParams(), Random(1))
        self.router.subscribe(T, 0)
        self.router.add_peer("p", "10.0.0.1", 0, outbound=True)
        self.counters = dict.fromkeys(COUNTERS, 0)
        self.delivered: list[RelayMessage] = []
        self.intake = Intake(
            self.router,
            [],
            {},
            RelayParams(max_hold=max_hold),
            self.counters,
            deliver=self.delivered.append,
            flush=lambda: None,
        )

    async def read(self, *chunks: bytes) -> MemoryStream:
        stream = MemoryStream(list(chunks))
        peer = self.router.peer("p")
        assert peer is not None
        await self.intake.read(stream, peer)
        return stream


def publish(payload: bytes) -> bytes:
    return encode_rpc(T.encode(), encode_message(WakuMessage(payload, "/a/1/b/c", timestamp=1)))


def run(*chunks: bytes) -> Reader:
    """Feed a fresh reader and return it."""

    async def main() -> Reader:
        reader = Reader()
        await reader.read(*chunks)
        return reader

    return trio.run(main)


@settings(max_examples=50)
@given(st.lists(st.binary(max_size=200), max_size=10))
def test_any_bytes_end_the_stream_at_worst(chunks: list[bytes]) -> None:
    run(*chunks)


@settings(max_examples=50)
@given(st.lists(st.binary(max_size=60), max_size=10))
def test_any_bytes_in_frames_leave_the_stream_usable(bodies: list[bytes]) -> None:
    reader = run(*(encode_varint(len(b)) + b for b in bodies), publish(b"after"))
    graylisted = reader.counters["rpcs_graylisted"]
    assert graylisted or reader.delivered[-1].message.payload == b"after"


@settings(max_examples=30)
@given(st.lists(st.binary(max_size=300), unique=True, max_size=20), st.lists(st.integers(1, 200), min_size=1))
def test_messages_come_out_whole_and_in_order_however_they_are_cut(
    payloads: list[bytes], sizes: list[int]
) -> None:
    wire = b"".join(map(publish, payloads))
    chunks: list[bytes] = []
    while wire:
        size = sizes[len(chunks) % len(sizes)]
        chunks.append(wire[:size])
        wire = wire[size:]
    reader = run(*chunks)
    assert [m.message.payload for m in reader.delivered] == payloads


@trio_test()
async def test_work_that_takes_too_long_is_left_to_the_streams_own_task() -> None:
    reader = Reader(max_hold=-1.0)
    payloads = [b"%d" % n for n in range(40)]
    wire = b"".join(map(publish, payloads))
    await reader.read(wire, wire[:1000], wire[1000:])
    assert [m.message.payload for m in reader.delivered] == payloads
    assert reader.counters["duplicates"] == 40
