"""Filter under bad peers, over real libp2p: subscribers that hang, bytes that are no requests, floods."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import trio

from ipc_schema.config.ratelimits import RateLimit
from ipc_schema.kernel.events import SOURCE_RELAY
from ipc_schema.message import WakuMessage, message_hash
from kernel_proc.metrics import Registry
from kernel_proc.p2p.api import Stream, StreamClosed
from kernel_proc.p2p.host import Libp2pHost
from kernel_proc.p2p.keys import NodeKey
from kernel_proc.p2p.limits import HostLimits
from kernel_proc.protocols.filter.codec import (
    PUSH_PROTOCOL,
    SUBSCRIBE_PROTOCOL,
    FilterRequest,
    RequestType,
    decode_push,
    decode_response,
    encode_request,
)
from kernel_proc.protocols.filter.push_link import STALL_SECONDS, PushParams
from kernel_proc.protocols.filter.service import FilterService
from kernel_proc.protocols.framing import MessageReader, encode_frame
from kernel_proc.protocols.requests import CallError, call
from tests.support.aio import trio_test

SHARD = "/waku/2/rs/1/0"
CONTENT = "/app/1/a/proto"
LOOPBACK = "/ip4/127.0.0.1/tcp/0"
LIMITS = HostLimits(max_per_ip=0, max_half_open_per_ip=0, write_timeout=1.2 * STALL_SECONDS)
# `settled`: how long a new stream takes data without a reader depends on the machine.
QUICK = PushParams(push_timeout=5.0, retry=0.2, settled=60.0, unreachable=2.0, sweep=0.3, queue_bytes=2 << 20)
NEVER = 10_000.0
PATIENT_LIMITS = HostLimits(max_per_ip=0, max_half_open_per_ip=0, write_timeout=NEVER, ping_timeout=NEVER)
PATIENT = PushParams(push_timeout=NEVER, unreachable=NEVER, queue_bytes=2 << 20)


class Subscriber:
    """A light client on a host of its own. `hangs`: takes the push stream, reads nothing."""

    def __init__(self, host: Libp2pHost, *, hangs: bool = False) -> None:
        self.host = host
        self.hangs = hangs
        self.got: list[bytes] = []
        self.streams = 0
        self._changed = trio.Event()
        host.set_stream_handler(PUSH_PROTOCOL, self._serve)

    async def _serve(self, stream: Stream) -> None:
        self.streams += 1
        if self.hangs:
            await trio.sleep_forever()
        reader = MessageReader(stream, 1 << 20)
        while (body := await reader.read()) is not None:
            self.got.append(decode_push(body).message.payload)
            self._changed.set()

    async def until_got(self, count: int) -> None:
        while len(self.got) < count:
            self._changed = trio.Event()
            await self._changed.wait()


class House:
    def __init__(
        self, host: Libp2pHost, nursery: trio.Nursery, rate_limit: RateLimit | None, params: PushParams
    ) -> None:
        self.host = host
        self._nursery = nursery
        self.service = FilterService(host, Registry(), params=params, rate_limit=rate_limit)
        self.service.requests.mount()
        self.number = 0

    async def plain(self) -> Libp2pHost:
        """One more host, connected to the service."""
        return await self._connect(Libp2pHost(key=NodeKey.generate(), limits=LIMITS))

    async def _connect(self, host: Libp2pHost) -> Libp2pHost:
        await self._nursery.start(host.serve)
        await host.connect(self.host.listen_addresses[0])
        return host

    async def ask(self, host: Libp2pHost, kind: RequestType, *contents: str) -> int:
        request = encode_request(FilterRequest("id", kind, SHARD, contents))
        body = await call(
            host,
            self.host.peer_id,
            (SUBSCRIBE_PROTOCOL,),
            request,
            decode=bytes,
            max_response=1000,
            deadline=5.0,
        )
        return decode_response(body).status

    async def subscriber(self, *, hangs: bool = False) -> Subscriber:
        made = Subscriber(Libp2pHost(key=NodeKey.generate(), limits=LIMITS), hangs=hangs)
        await self._connect(made.host)
        assert await self.ask(made.host, RequestType.SUBSCRIBE, CONTENT) == 200
        return made

    def message(self, size: int) -> None:
        self.number += 1
        message = WakuMessage(bytes(size), CONTENT, timestamp=self.number)
        self.service.on_message(SHARD, message, message_hash(SHARD, message), SOURCE_RELAY)

    def counter(self, name: str) -> int:
        return self.service.counters[name]


@asynccontextmanager
async def house(
    rate_limit: RateLimit | None = None, params: PushParams = QUICK, limits: HostLimits = LIMITS
) -> AsyncIterator[House]:
    host = Libp2pHost(key=NodeKey.generate(), listen=[LOOPBACK], limits=limits)
    async with trio.open_nursery() as nursery:
        await nursery.start(host.serve)
        made = House(host, nursery, rate_limit, params)
        nursery.start_soon(made.service.run)
        yield made
        nursery.cancel_scope.cancel()


@trio_test(deadline=60)
async def test_subscribers_that_hang_delay_no_other() -> None:
    """No time-out ends the streams of those that hang: the others do not wait for one."""
    async with house(params=PATIENT, limits=PATIENT_LIMITS) as one:
        for _ in range(3):
            await one.subscriber(hangs=True)
        well = [await one.subscriber() for _ in range(5)]
        for number in range(60):
            one.message(50_000)
            for subscriber in well:
                await subscriber.until_got(number + 1)
        assert all(subscriber.streams == 1 for subscriber in well)
        assert one.counter("dropped") > 0  # 3 MB, of which a queue holds two


@trio_test(deadline=60)
async def test_those_that_hang_are_forgotten() -> None:
    async with house() as one:
        hung = [await one.subscriber(hangs=True) for _ in range(3)]
        well = [await one.subscriber() for _ in range(2)]
        size = 50_000
        while len(one.service.table) > len(well):
            one.message(size)
            await trio.sleep(0.1)
        assert one.counter("unreachable") == len(hung)
        assert one.counter("failed") > 0
        assert all(subscriber.host.peer_id in one.service.table for subscriber in well)


@trio_test()
async def test_a_subscriber_whose_connection_is_cut_in_mid_push() -> None:
    async with house() as one:
        gone, well = await one.subscriber(), await one.subscriber()
        for _ in range(20):
            one.message(100_000)
        await gone.host.disconnect(one.host.peer_id, "cut")
        await well.until_got(20)
        assert one.host.counters()["handler_errors"] == 0
        while len(one.service.table) > 1:
            await trio.sleep(0.05)
        one.message(10)
        await well.until_got(21)


@trio_test()
async def test_any_bytes_for_a_request() -> None:
    rng = random.Random(5)
    async with house() as one:
        peer = await one.plain()
        for _ in range(60):
            stream = await peer.open_stream(one.host.peer_id, (SUBSCRIBE_PROTOCOL,))
            body = rng.randbytes(rng.randrange(0, 60))
            await stream.write(encode_frame(body) if rng.random() < 0.7 else body)
            await stream.close()
            try:
                while await stream.read():
                    pass
            except StreamClosed:
                pass
        assert one.host.counters()["handler_errors"] == 0
        assert peer.is_connected(one.host.peer_id)
        assert await one.ask(peer, RequestType.SUBSCRIBE, CONTENT) == 200


@trio_test()
async def test_frames_that_are_too_long_or_never_end() -> None:
    async with house() as one:
        peer = await one.plain()
        for start in (b"\xff\xff\xff\xff\xff\xff", encode_frame(bytes(300_000))[:1000]):
            stream = await peer.open_stream(one.host.peer_id, (SUBSCRIBE_PROTOCOL,))
            await stream.write(start)
            with suppress(StreamClosed):
                assert await stream.read() == b""
        assert one.service.requests.counters["malformed"] == 2
        # Begun and never ended: each costs this peer a stream, and other peers nothing.
        for _ in range(20):
            stream = await peer.open_stream(one.host.peer_id, (SUBSCRIBE_PROTOCOL,))
            await stream.write(b"\x20half")
        other = await one.plain()
        assert await one.ask(other, RequestType.SUBSCRIBE, CONTENT) == 200


@trio_test()
async def test_a_flood_of_requests_harms_only_the_one_who_makes_it() -> None:
    async with house(RateLimit(100, 60.0)) as one:
        loud, well = await one.plain(), await one.subscriber()
        statuses: list[int] = []

        async def flood() -> None:
            for _ in range(100):
                try:
                    statuses.append(await one.ask(loud, RequestType.SUBSCRIBE, CONTENT))
                except CallError:
                    statuses.append(0)

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(flood)
            assert await one.ask(well.host, RequestType.PING) == 200
            one.message(100)
            await well.until_got(1)
        assert 429 in statuses
        assert set(statuses) <= {200, 429, 0}
