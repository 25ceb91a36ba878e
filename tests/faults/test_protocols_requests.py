"""Store and lightpush over real connections, with peers on either side that are hostile, slow or gone."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from random import Random

import pytest
import trio
from trio.testing import MockClock

from ipc_schema.message import WakuMessage, encode_message, message_hash
from kernel_proc.archive.api import HistoryQuery
from kernel_proc.metrics import Registry
from kernel_proc.p2p.api import Stream, StreamClosed
from kernel_proc.p2p.host import Libp2pHost
from kernel_proc.protocols import store_codec as codec
from kernel_proc.protocols.framing import MessageReader, encode_frame
from kernel_proc.protocols.peer_select import PeerRanking, ServicePeerChoice
from kernel_proc.protocols.requests import AllFailed, RequestService, ServiceLimits, call
from kernel_proc.protocols.store import StoreService
from kernel_proc.protocols.store_client import StoreClient
from kernel_proc.protocols.store_codec import PROTOCOL, StoreRequest
from tests.support.aio import trio_test
from tests.support.memory_archive import MemoryArchive
from tests.unit.kernel_proc.p2p.support import host, until

TOPIC = "/waku/2/rs/1/0"


def archive(count: int = 5, size: int = 100) -> MemoryArchive:
    found = MemoryArchive()
    for number in range(count):
        found.put(TOPIC, WakuMessage(os.urandom(size), "/t/1/x/proto", timestamp=number + 1))
    return found


def quick(service: RequestService, **limits: float) -> RequestService:
    """The same service with other limits."""
    service._limits = service._limits._replace(**limits)  # type: ignore[arg-type]
    return service


@dataclass
class Pair:
    """A store on `far`, connected to `near`."""

    far: Libp2pHost
    near: Libp2pHost
    service: RequestService

    async def ask(self, request: StoreRequest, deadline: float = 5.0) -> codec.StoreResponse:
        body = await call(
            self.near,
            self.far.peer_id,
            [PROTOCOL],
            codec.encode_request(request),
            decode=bytes,
            max_response=1 << 24,
            deadline=deadline,
        )
        return codec.decode_response(body)


@asynccontextmanager
async def pair(stored: MemoryArchive | None = None, **limits: float) -> AsyncIterator[Pair]:
    async with host() as (far, _), host() as (near, events):
        service = quick(StoreService(far, stored or archive(), Registry("")).service, **limits)
        service.mount()
        await near.connect(far.listen_addresses[0])
        await events.wait_for("identified")
        yield Pair(far, near, service)


async def read_all(stream: Stream) -> None:
    while await stream.read():
        pass


async def is_well(two: Pair) -> None:
    """The service answers, the connection holds, nothing was a defect."""
    assert len((await two.ask(StoreRequest("id"))).messages) == 5
    assert two.far.counters()["handler_errors"] == 0


# --- against a hostile client ---


@trio_test()
async def test_garbage_on_many_streams_harms_no_other_peer() -> None:
    rng = Random(7)
    async with pair() as two:
        for _ in range(60):
            stream = await two.near.open_stream(two.far.peer_id, [PROTOCOL])
            data = rng.randbytes(rng.randrange(1, 400))
            await stream.write(data if rng.random() < 0.5 else encode_frame(data))
            if rng.random() < 0.3:
                await stream.reset()
            else:
                await stream.close()
                with trio.move_on_after(2):
                    with suppress(StreamClosed):
                        await read_all(stream)
        await is_well(two)


@trio_test()
async def test_a_frame_that_is_too_long_is_refused_by_its_first_bytes() -> None:
    async with pair() as two:
        stream = await two.near.open_stream(two.far.peer_id, [PROTOCOL])
        await stream.write(b"\xff\xff\xff\x7f")
        with pytest.raises(StreamClosed):
            await read_all(stream)
        assert two.service.counters["malformed"] == 1
        await is_well(two)


@trio_test()
async def test_requests_that_trickle_are_given_up_and_hold_no_others() -> None:
    async with pair(read_timeout=1.0) as two, host() as (slow, _):
        places = two.service._limits.at_once_per_peer
        await slow.connect(two.far.listen_addresses[0])
        streams = [await slow.open_stream(two.far.peer_id, [PROTOCOL]) for _ in range(places + 2)]
        for stream in streams:
            await stream.write(b"\x50\x0a")
        await until(lambda: two.service.counters["busy"] == 2)
        await is_well(two)
        await until(lambda: two.service.counters["stalled"] == places)
        await is_well(two)


@trio_test()
async def test_who_does_not_read_a_large_answer_is_cut_off() -> None:
    async with pair(archive(count=100, size=40_000), write_timeout=1.0) as two:
        stream = await two.near.open_stream(two.far.peer_id, [PROTOCOL])
        request = StoreRequest("id", include_data=True, limit=100)
        await stream.write(encode_frame(codec.encode_request(request)))  # and reads nothing
        await until(lambda: two.service.counters["stalled"] == 1)
        answer = await two.ask(request, deadline=15.0)
        assert sum(len(m.data or b"") for m in answer.messages) > 3 << 20
        assert answer.cursor is not None or len(answer.messages) == 100


@trio_test()
async def test_a_hundred_idle_streams_leave_room_for_the_one_that_asks() -> None:
    """js-waku opens a stream ahead of each use."""
    async with pair() as two:
        idle = [await two.near.open_stream(two.far.peer_id, [PROTOCOL]) for _ in range(100)]
        await is_well(two)
        await idle[-1].write(encode_frame(codec.encode_request(StoreRequest("late"))))
        body = await MessageReader(idle[-1], 1 << 20).read()
        assert codec.decode_response(body or b"").request_id == "late"
        assert two.far.counters()["streams_replaced"] >= 100 - ServiceLimits(0).streams_per_peer


@trio_test()
async def test_a_client_that_dies_in_mid_answer() -> None:
    async with pair(archive(count=100, size=40_000)) as two:
        async with host() as (dying, _):
            await dying.connect(two.far.listen_addresses[0])
            stream = await dying.open_stream(two.far.peer_id, [PROTOCOL])
            request = StoreRequest("id", include_data=True, limit=100)
            await stream.write(encode_frame(codec.encode_request(request)))
            await stream.read(10)
        await until(lambda: len(two.far.connections()) == 1)
        assert len((await two.ask(StoreRequest("id", limit=100))).messages) == 100
        assert two.far.counters()["handler_errors"] == 0


# --- against hostile services ---

Bad = Callable[[Stream], Awaitable[None]]


def slow_clock() -> MockClock:
    """A clock that leaves a busy machine ten times as long for what must come in time."""
    return MockClock(rate=0.1)


def run_out() -> None:
    """Let the time pass that one attempt is given."""
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, MockClock)
    clock.jump(2.0)


async def silent(_stream: Stream) -> None:
    run_out()
    await trio.sleep_forever()


async def slams(stream: Stream) -> None:
    await stream.reset()


async def floods(stream: Stream) -> None:
    await stream.write(b"\xff\xff\xff\x07")
    while True:
        await stream.write(bytes(65536))


async def trickles(stream: Stream) -> None:
    await stream.write(b"\xff\x7f")
    for _ in range(5):
        await stream.write(b"\x0a")
        await trio.sleep(0.005)
    run_out()
    while True:
        await stream.write(b"\x0a")
        await trio.sleep(0.05)


async def babbles(stream: Stream) -> None:
    await stream.write(encode_frame(Random(1).randbytes(500)))


async def foreign(stream: Stream) -> None:
    """A true message, but none that was asked for."""
    body = await MessageReader(stream, 1 << 20).read() or b""
    request = codec.decode_request(body)
    message = WakuMessage(b"spam", "/spam/1/x/proto", timestamp=1)
    entry = codec.KeyValue(message_hash(TOPIC, message), encode_message(message), TOPIC)
    response = codec.StoreResponse(request.request_id, 200, "OK", (entry,))
    await stream.write(encode_frame(codec.encode_response(response)))


async def forged(stream: Stream) -> None:
    """Something else under the hash that was asked for."""
    request = codec.decode_request(await MessageReader(stream, 1 << 20).read() or b"")
    message = WakuMessage(b"forged", "/t/1/x/proto", timestamp=2)
    digest = request.hashes[0] if request.hashes else bytes(32)
    entry = codec.KeyValue(digest, encode_message(message), TOPIC)
    response = codec.StoreResponse(request.request_id, 200, "OK", (entry,))
    await stream.write(encode_frame(codec.encode_response(response)))


@pytest.mark.parametrize("bad", [silent, slams, floods, trickles, babbles, foreign, forged])
def test_the_good_store_is_found_behind_a_bad_one(bad: Bad) -> None:
    @trio_test(clock=slow_clock)
    async def check() -> None:
        stored = archive()
        async with host() as (one, _), host() as (two, _), host() as (near, events):
            one.set_stream_handler(PROTOCOL, bad)
            StoreService(two, stored, Registry("")).service.mount()
            for far in (one, two):
                await near.connect(far.listen_addresses[0])
            await events.wait_for("identified", 2)
            peers = ServicePeerChoice(
                near,
                PeerRanking(trio.current_time, Random(1)),
                lambda _peer: None,
                {"store": [one.listen_addresses[0]]},  # the bad one is asked first
            )
            client = StoreClient(near, peers, Registry(""), max_message_size=153_600)
            wanted = tuple(stored.rows)
            query = HistoryQuery(hashes=wanted[:3], content_topics=("/t/1/x/proto",), include_data=True)
            history = await client.query(query, deadline=trio.current_time() + 4)
            assert history.peer_id == two.peer_id
            assert sorted(found.message_hash for found in history.messages) == sorted(wanted[:3])
            with pytest.raises(AllFailed) as failed:
                await client.query(query, peer=one.peer_id, deadline=trio.current_time() + 1)
            assert [attempt.peer for attempt in failed.value.attempts] == [one.peer_id]
            assert near.is_connected(one.peer_id)

    check()


@trio_test()
async def test_a_store_that_is_killed_while_it_answers() -> None:
    stored = archive()
    async with host() as (two, _), host() as (near, events):
        StoreService(two, stored, Registry("")).service.mount()
        asked = trio.Event()

        async def hears(stream: Stream) -> None:
            await stream.read()
            asked.set()
            await trio.sleep_forever()

        peers = ServicePeerChoice(near, PeerRanking(trio.current_time, Random(1)), lambda _p: None, {})
        client = StoreClient(near, peers, Registry(""), max_message_size=153_600)
        await near.connect(two.listen_addresses[0])
        async with trio.open_nursery() as nursery, host() as (one, _):
            one.set_stream_handler(PROTOCOL, hears)
            await near.connect(one.listen_addresses[0])
            await events.wait_for("identified", 2)
            failures: list[AllFailed] = []

            async def ask(peer_id: str) -> None:
                try:
                    await client.query(HistoryQuery(), peer=peer_id, deadline=trio.current_time() + 1000)
                except AllFailed as error:
                    failures.append(error)

            nursery.start_soon(ask, one.peer_id)
            await asked.wait()
        assert len(failures) == 1  # by the connection's end: the deadline is far away
        assert (await client.query(HistoryQuery(), deadline=trio.current_time() + 5)).peer_id == two.peer_id
