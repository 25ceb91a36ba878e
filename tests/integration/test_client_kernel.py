"""KernelClient against real kernel processes."""

from __future__ import annotations

import asyncio
import contextlib
import signal

import pytest

from ipc_schema.message import WakuMessage, message_hash
from logos_client import (
    BadRequestError,
    KernelClient,
    KernelFound,
    KernelLost,
    KernelMessage,
    NoPeersError,
    PeerEvent,
    PeerRestartedError,
    StreamLoss,
    TooLargeError,
)
from logos_client.kernel import KernelFeed
from logos_client.kernel_events import SOURCE_RELAY, SOURCE_SELF, HealthEvent, KernelEvent
from tests.support.aio import asyncio_test
from tests.support.kernel_process import KernelProcess, kernels, short_directory

pytestmark = pytest.mark.integration

TOPIC = "/test/1/client/proto"


async def next_of(feed: KernelFeed, *kinds: type[KernelEvent]) -> KernelEvent:
    """The next event of one of these classes."""
    async with asyncio.timeout(20):
        async for event in feed:
            if isinstance(event, kinds):
                return event
    raise AssertionError("the feed ended")


async def publish_alone(client: KernelClient, payload: bytes, **options: int) -> None:
    """Publish on a node without peers: local readers get it all the same."""
    with contextlib.suppress(NoPeersError):
        await client.publish(TOPIC, payload, **options)  # type: ignore[arg-type]


@asyncio_test(60)
async def test_what_a_tool_asks_a_kernel() -> None:
    with short_directory() as path, KernelProcess(path / "k") as process:
        async with KernelClient.connect(process.directory / "run") as client:
            assert client.consumer
            assert client.server.startswith("logos-kernel/")
            assert (await client.health()).state
            assert str((await client.info(["MyPeerId"]))["MyPeerId"]).startswith("16Uiu2")
            options = {option.name: option for option in await client.config()}
            assert options["tcp-port"].value == 0
            assert await client.metrics()
            assert await client.peers() == []
            (result,) = await client.connect_peers("/ip4/127.0.0.1/tcp/1/p2p/" + "x" * 20)
            assert result.error
            with pytest.raises(BadRequestError):
                await client.publish("no content topic", b"x")
            with pytest.raises(TooLargeError, match="Message size exceeded maximum of"):
                await client.publish(TOPIC, bytes(client.network.max_message_size + 1))
            async with client.control() as control:
                assert (await control.health()).ready
                before = await control.set_log_level("DEBUG")
                assert await control.set_log_level(before) == "DEBUG"
                assert process.process is not None
                await control.shutdown()
                assert await asyncio.to_thread(process.process.wait, 10) == 0


@asyncio_test(60)
async def test_messages_between_two_kernels() -> None:
    with short_directory() as path, kernels(path, (), ()) as (one, two):
        async with (
            KernelClient.connect(one.directory / "run") as a,
            KernelClient.connect(two.directory / "run", name="reader") as b,
            a.events(shards=[0], health=True) as a_feed,
            b.events(shards=[0], peers=True) as b_feed,
        ):
            (result,) = await a.connect_peers(two.address())
            assert result.error is None
            joined = await next_of(b_feed, PeerEvent)
            assert isinstance(joined, PeerEvent)
            assert joined.peer.peer_id == (await a.info(["MyPeerId"]))["MyPeerId"]
            await next_of(a_feed, HealthEvent)
            async with asyncio.timeout(20):
                while not any((await a.mesh()).values()):
                    await asyncio.sleep(0.05)
            reply = await a.publish(TOPIC, b"hello", meta=b"m", timestamp=1_700_000_000_000_000_000)
            assert reply.peers == 1
            got = await next_of(b_feed, KernelMessage)
            assert isinstance(got, KernelMessage)
            assert (got.payload, got.content_topic, got.meta, got.source) == (
                b"hello",
                TOPIC,
                b"m",
                SOURCE_RELAY,
            )
            expected = WakuMessage(b"hello", TOPIC, timestamp=1_700_000_000_000_000_000, meta=b"m")
            assert got.message_hash == reply.message_hash == message_hash(reply.pubsub_topic, expected)
            again = await a.publish(TOPIC, b"hello", meta=b"m", timestamp=1_700_000_000_000_000_000)
            assert (again.duplicate, again.message_hash) == (True, reply.message_hash)


@asyncio_test(60)
async def test_a_slow_reader_gets_everything_out_of_the_ring() -> None:
    count = 200
    with short_directory() as path, KernelProcess(path / "k") as process:
        async with (
            KernelClient.connect(process.directory / "run") as client,
            client.events(shards=[0], max_bytes=200_000) as feed,
        ):
            for number in range(count):
                await publish_alone(client, number.to_bytes(2, "big") * 5_000)
            most = 0
            got: list[tuple[int, bytes]] = []
            while len(got) < count:
                event = await next_of(feed, KernelMessage, StreamLoss)
                assert isinstance(event, KernelMessage), event
                assert event.source == SOURCE_SELF
                got.append((event.seq, event.payload[:2]))
                most = max(most, feed.buffered_bytes)
            assert got == [(number + 1, number.to_bytes(2, "big")) for number in range(count)]
            assert feed.counters.replays > 0
            # One page of a replay (1 MiB and its overhead) may come on top of a full buffer.
            assert most < 200_000 + (1 << 20) + (1 << 18)


@asyncio_test(60)
async def test_a_killed_kernel() -> None:
    with short_directory() as path, KernelProcess(path / "k") as process:
        async with (
            KernelClient.connect(process.directory / "run", name="tool") as client,
            client.events(shards=[0]) as feed,
        ):
            await publish_alone(client, b"before")
            await next_of(feed, KernelMessage)
            assert process.process is not None
            process.process.send_signal(signal.SIGSTOP)
            asking = asyncio.create_task(client.health())
            await asyncio.sleep(0.1)
            process.process.kill()
            with pytest.raises(PeerRestartedError):
                await asking
            assert isinstance(await next_of(feed, KernelLost), KernelLost)
            process.process.wait(10)
            await asyncio.to_thread(process.start)
            # The event socket and the request socket reconnect on their own: in either order.
            loss: KernelEvent | None = None
            found: KernelEvent | None = None
            while loss is None or found is None:
                event = await next_of(feed, StreamLoss, KernelFound)
                loss = event if loss is None and isinstance(event, StreamLoss) else loss
                found = event if isinstance(event, KernelFound) else found
            assert isinstance(found, KernelFound)
            assert found.restarted
            assert isinstance(loss, StreamLoss)
            assert (loss.stream, loss.first, loss.last) == ("m/0/0", 2, None)
            # The lease was taken again, so what is published from then on is on the stream.
            async with asyncio.timeout(20):
                message: KernelEvent | None = None
                while not isinstance(message, KernelMessage):
                    await publish_alone(client, b"after")
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(0.5):
                            message = await next_of(feed, KernelMessage)
            assert message.payload == b"after"
