"""MessagingClient against a real Messaging API that is frozen, killed and overrun."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from logos_client import (
    ConflictError,
    DeadlineError,
    LinkLost,
    LinkRestored,
    MessageReceived,
    MessagingClient,
    NotReadyError,
    TakenOver,
    TooLargeError,
)
from tests.support.aio import asyncio_test
from tests.support.kernel_process import KernelProcess, short_directory
from tests.support.mapi_process import MapiProcess

pytestmark = pytest.mark.integration

TOPIC = "/toychat/2/huilong/proto"


@asynccontextmanager
async def node() -> AsyncIterator[tuple[Path, MapiProcess]]:
    """A kernel without peers and a Messaging API: what an app sends comes back to all apps on it."""
    with (
        short_directory() as path,
        KernelProcess(path / "n") as kernel,
        MapiProcess(kernel.directory) as mapi,
    ):
        await mapi.ready()
        yield kernel.directory / "run", mapi


async def messages(client: MessagingClient, count: int, seconds: float = 20.0) -> list[MessageReceived]:
    """The next `count` messages; other events are passed over."""
    found: list[MessageReceived] = []
    async with asyncio.timeout(seconds):
        while len(found) < count:
            event = await client.next_event()
            if isinstance(event, MessageReceived):
                found.append(event)
    return found


@asyncio_test(60)
async def test_sends_under_way_survive_a_kill_each_once() -> None:
    count = 300
    async with node() as (run, mapi), MessagingClient.connect(run, name="app") as client:
        await client.subscribe(TOPIC)
        sending = [asyncio.create_task(client.send(TOPIC, b"%d" % n, timeout=30)) for n in range(count)]
        done, _ = await asyncio.wait(sending, return_when=asyncio.FIRST_COMPLETED)
        assert done
        mapi.kill()
        mapi.start()
        ids = await asyncio.gather(*sending)
        assert len(set(ids)) == count
        received = await messages(client, count, 40)
        assert Counter(message.payload for message in received) == {b"%d" % n: 1 for n in range(count)}
        assert len({(message.stream_id, message.seq) for message in received}) == count


@asyncio_test(60)
async def test_a_named_app_sees_each_message_once_over_kills() -> None:
    async with node() as (run, mapi), MessagingClient.connect(run, name="app") as client:
        await client.subscribe(TOPIC)
        seen: list[MessageReceived] = []
        links: list[type[LinkLost | LinkRestored]] = []
        client.on(MessageReceived, seen.append)
        client.on(LinkLost, lambda event: links.append(type(event)))
        client.on(LinkRestored, lambda event: links.append(type(event)))
        for round_number in range(3):
            for number in range(20):
                await client.send(TOPIC, b"%d/%d" % (round_number, number), timeout=20)
            mapi.kill()
            mapi.start()
        async with asyncio.timeout(30):
            while len(seen) < 60:
                await asyncio.sleep(0.02)
        assert [message.payload for message in sorted(seen, key=lambda m: m.seq)] == [
            b"%d/%d" % (round_number, number) for round_number in range(3) for number in range(20)
        ]
        assert [link.kind for link in links[:2]] == ["link_lost", "link_restored"]
        assert len({message.stream_id for message in seen}) == 1


@asyncio_test(60)
async def test_a_frozen_messaging_api() -> None:
    async with node() as (run, mapi), MessagingClient.connect(run, name="app") as client:
        await client.subscribe(TOPIC)
        mapi.signal(signal.SIGSTOP)
        with pytest.raises(DeadlineError):
            await client.status(timeout=0.3)
        request_id = b"0123456789abcdef"
        with pytest.raises(DeadlineError):
            await client.send(TOPIC, b"once", request_id=request_id, timeout=0.3)
        mapi.signal(signal.SIGCONT)
        # Whether the first try was carried out is unknown; the id makes it one message.
        assert await client.send(TOPIC, b"once", request_id=request_id) == request_id
        await client.send(TOPIC, b"twice")
        assert [message.payload for message in await messages(client, 2)] == [b"once", b"twice"]


@asyncio_test(90)
async def test_an_app_that_does_not_read_holds_little_memory_and_loses_nothing() -> None:
    size, count, credit = 50_000, 200, 500_000
    async with (
        node() as (run, _),
        MessagingClient.connect(run, name="slow", credit=credit) as slow,
        MessagingClient.connect(run) as sender,
    ):
        await slow.subscribe(TOPIC)
        before = psutil.Process().memory_info().rss
        for number in range(count):
            await sender.send(TOPIC, number.to_bytes(2, "big") * (size // 2), timeout=30)
        async with asyncio.timeout(20):
            while slow.buffered_bytes < credit:
                await asyncio.sleep(0.02)
        assert slow.buffered_bytes <= credit + size + 1_000
        assert psutil.Process().memory_info().rss - before < 40 << 20
        got = await messages(slow, count, 40)
        # Sends that are under way at once may overtake each other.
        assert sorted(message.payload[:2] for message in got) == [n.to_bytes(2, "big") for n in range(count)]


@asyncio_test(60)
async def test_one_name_one_app() -> None:
    async with node() as (run, _), MessagingClient.connect(run, name="app") as first:
        await first.subscribe(TOPIC)
        with pytest.raises(ConflictError):
            await MessagingClient.connect(run, name="app", timeout=10)
        async with MessagingClient.connect(run, name="app", takeover=True) as second:
            async with asyncio.timeout(10):
                kinds = [type(event) async for event in first]
            assert kinds[-1] is TakenOver
            with pytest.raises(ConflictError):
                await first.send(TOPIC, b"x")
            assert await second.subscriptions() == [TOPIC]
            await second.send(TOPIC, b"x")
            assert (await messages(second, 1))[0].payload == b"x"
        async with MessagingClient.connect(run) as other:
            await other.forget("app")
        async with MessagingClient.connect(run, name="app") as again:
            assert await again.subscriptions() == []


@asyncio_test(60)
async def test_an_app_without_goodbye_comes_back_at_once() -> None:
    """The Messaging API may take the dead connection for a live one until its next heartbeat."""
    async with node() as (run, _):
        first = await MessagingClient.connect(run, name="app")
        await first.subscribe(TOPIC)
        await first.send(TOPIC, b"kept")
        await first._session.connection.close()  # as when the program is killed
        async with MessagingClient.connect(run, name="app", timeout=15) as second:
            assert (await messages(second, 1))[0].payload == b"kept"
        await first.close()


@asyncio_test(60)
async def test_no_messaging_api_there() -> None:
    async with node() as (run, mapi):
        client = await MessagingClient.connect(run)
        assert len(await client.send(TOPIC, bytes(client.limits.max_payload))) == 16
        with pytest.raises(TooLargeError, match="Message size exceeded maximum of"):
            await client.send(TOPIC, bytes(client.network.max_message_size + 1))
        with pytest.raises(TooLargeError, match="Message size exceeded maximum of"):
            await client.send(TOPIC, bytes(10 << 20))
        assert mapi.stop() == 0
        with pytest.raises(NotReadyError):
            await client.send(TOPIC, b"x", timeout=0.3)
        with pytest.raises(NotReadyError):
            await MessagingClient.connect(run, timeout=0.3)
        await client.close()
