"""The bridge after an outage: what is old is looked up, and what NATS could not take waits in the kernel."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from pathlib import Path

import nats
import pytest
from nats.js import JetStreamContext, api

from logos_client.exceptions import NoPeersError
from logos_client.kernel import KernelClient
from tests.support.aio import asyncio_test
from tests.support.bridge_process import BridgeProcess
from tests.support.kernel_process import KernelProcess
from tests.support.nats_server import NatsServer
from tests.support.nodes import TOPIC

pytestmark = pytest.mark.integration

ALWAYS_READ: dict[str, float] = {"logos_bridge.duplicates:SKEW_NS": 3_600_000_000_000}
"""Nothing counts as recent: every message is looked up."""


async def publish(kernel: KernelClient, *payloads: str) -> None:
    """Publish at a node without peers: its streams have it all the same."""
    for payload in payloads:
        with pytest.raises(NoPeersError):
            await kernel.publish(TOPIC, payload.encode())


async def stored(js: JetStreamContext, count: int) -> list[bytes]:
    """The payloads in the stream, once there are so many."""
    async with asyncio.timeout(30):
        while (await js.stream_info("logos-messages")).state.messages < count:
            await asyncio.sleep(0.05)
    subscription = await js.subscribe(">", stream="logos-messages", ordered_consumer=True)
    total = (await js.stream_info("logos-messages")).state.messages
    return [(await subscription.next_msg(timeout=10)).data for _ in range(total)]


@asyncio_test(90)
async def test_what_jetstream_would_not_notice_any_more_is_not_published_again(tmp_path: Path) -> None:
    with NatsServer() as server, KernelProcess(tmp_path / "n", "--shard=0") as kernel_process:
        server.wait_ready()
        client = await nats.connect(server.url)
        js = client.jetstream()
        # A window that is over when the bridge is back: JetStream notices nothing.
        config = api.StreamConfig(name="logos-messages", subjects=["logos.messages.>"], duplicate_window=0.1)
        await js.add_stream(config)
        arguments = (f"--nats-url={server.url}", "--mapi=false")
        async with KernelClient.connect(kernel_process.directory / "run") as kernel:
            with BridgeProcess(tmp_path / "n", *arguments, constants=ALWAYS_READ) as bridge:
                bridge.wait_ready()
                await publish(kernel, "one", "two", "three")
                assert await stored(js, 3) == [b"one", b"two", b"three"]
            await js.purge_stream("KV_logos-bridge")  # without a position it takes all that the kernel has
            await publish(kernel, "four")
            with BridgeProcess(tmp_path / "n", *arguments, constants=ALWAYS_READ) as bridge:
                bridge.wait_ready()
                assert Counter(await stored(js, 4)) == Counter([b"one", b"two", b"three", b"four"])
                status = bridge.wait_for(lambda status: status["out"]["0"]["seq"] == 4)
        await client.close()
    counted = {
        labels["result"]: value
        for name, labels, value in status["metrics"]["samples"]
        if name == "bridge_out_messages" and value
    }
    assert counted == {"known": 3.0, "stored": 1.0}


@asyncio_test(90)
async def test_a_server_that_hangs_slows_nothing_and_gets_everything_later(tmp_path: Path) -> None:
    with NatsServer() as server, KernelProcess(tmp_path / "n", "--shard=0") as kernel_process:
        server.wait_ready()
        with BridgeProcess(tmp_path / "n", f"--nats-url={server.url}", "--mapi=false") as bridge:
            bridge.wait_ready()
            async with KernelClient.connect(kernel_process.directory / "run") as kernel:
                server.signal(signal.SIGSTOP)
                wanted = [f"message {number}" for number in range(300)]
                await publish(kernel, *wanted)  # the kernel takes them all meanwhile
                lagging = bridge.wait_for(lambda status: status["out"]["0"]["lagSeconds"] > 1)
                assert lagging["out"]["0"]["seq"] == 0
                server.signal(signal.SIGCONT)
                client = await nats.connect(server.url)
                assert sorted(await stored(client.jetstream(), 300)) == sorted(map(str.encode, wanted))
                bridge.wait_for(lambda status: status["ready"] and status["out"]["0"]["lagSeconds"] < 1)
                await client.close()
