"""The bridge to NATS JetStream, with a real server, kernel and Messaging API."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.msg import Msg
from nats.js import JetStreamContext

from ipc_schema.hello import NetworkInfo
from ipc_schema.message import WakuMessage, message_hash
from ipc_schema.topics import autoshard, shard_topic
from logos_bridge.send_record import RecordedSend, SendDraft
from logos_client.kernel import KernelClient
from tests.support.aio import asyncio_test
from tests.support.bridge_process import BridgeProcess
from tests.support.nats_server import NatsServer
from tests.support.nodes import TOPIC, Node, node_with_sender, single_node

pytestmark = pytest.mark.integration

PAGE = Path(__file__).parents[2] / "docs" / "scale-out.md"
EXAMPLES: dict[str, str] = dict(
    re.findall(r"<!-- example: (\S+) -->\n```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
)


@contextmanager
def bridged_node(directory: Path, *mapi_options: str) -> Iterator[tuple[NatsServer, Node, BridgeProcess]]:
    """A server, and a bridge at a node that has a peer."""
    with NatsServer() as server, node_with_sender(directory, mapi_options=mapi_options) as (node, _sender):
        server.wait_ready()
        with BridgeProcess(node.directory, f"--nats-url={server.url}") as bridge:
            bridge.wait_ready()
            yield server, node, bridge


@asynccontextmanager
async def jetstream(server: NatsServer) -> AsyncIterator[JetStreamContext]:
    """A client of the server."""
    client = await nats.connect(server.url)
    try:
        yield client.jetstream()
    finally:
        await client.close()


def dead_bridges_send(
    network: NetworkInfo,
    request_id: bytes,
    queue_seq: int,
    *,
    payload: bytes = b"x",
    timestamp: int | None = None,
) -> RecordedSend:
    """The record of a send that a bridge had begun which is gone."""
    draft = SendDraft(
        content_topic=TOPIC, payload=payload, meta=b"", ephemeral=True, send_id="", client="shop"
    )
    return RecordedSend.begin(
        draft,
        network,
        request_id=request_id,
        queue_seq=queue_seq,
        owner="dead",
        timestamp=time.time_ns() if timestamp is None else timestamp,
    )


async def read(js: JetStreamContext, stream: str, count: int) -> list[Msg]:
    """The first messages of a stream."""
    subscription = await js.subscribe(">", stream=stream, ordered_consumer=True)
    return [await subscription.next_msg(timeout=20) for _ in range(count)]


def counted(status: dict[str, Any], family: str, value: str = "") -> float:
    """A sample of the status, by the value of its label."""
    found = [
        number
        for name, labels, number in status["metrics"]["samples"]
        if name == family and value in ("", *labels.values())
    ]
    return float(found[0]) if found else 0.0


@asyncio_test(60)
async def test_a_message_of_the_network_is_published_with_what_identifies_it(tmp_path: Path) -> None:
    with bridged_node(tmp_path) as (server, node, _bridge):
        async with KernelClient.connect(node.run) as kernel, jetstream(server) as js:
            network = kernel.network
            sent = await kernel.publish(
                TOPIC, b"hello", meta=b"\x01\x02", timestamp=1_700_000_000_000_000_000
            )
            (message,) = await read(js, "logos-messages", 1)
    shard = autoshard(TOPIC, network.shard_count)
    assert message.subject == f"logos.messages.{network.cluster}.{shard}.toychat.2.huilong.proto"
    assert message.data == b"hello"
    digest = "0x" + sent.message_hash.hex()
    assert message.headers == {
        "Nats-Msg-Id": digest,
        "Logos-Message-Hash": digest,
        "Logos-Timestamp": "1700000000000000000",
        "Logos-Source": "self",
        "Logos-Content-Topic": TOPIC,
        "Logos-Meta": "0102",
    }


@asyncio_test(60)
async def test_a_send_gets_one_fate_and_what_is_wrong_goes_to_the_dead_letters(tmp_path: Path) -> None:
    with bridged_node(tmp_path) as (server, node, bridge):
        async with KernelClient.connect(node.run) as kernel, jetstream(server) as js:
            network = kernel.network
            named = {"Nats-Msg-Id": "order-1", "Logos-Client": "shop", "Logos-Ephemeral": "true"}
            await js.publish("logos.sends.toychat.2.huilong.proto", b"from far", headers=named)
            await js.publish("logos.sends.toychat.2.huilong.proto", b"")
            await js.publish("logos.sends.not-a-topic", b"x")
            dead = await read(js, "logos-dead", 2)
            fates = await read(js, "logos-fates", 2)
            (message,) = await read(js, "logos-messages", 1)
            bridge.wait_for(lambda status: status["in"] == {"open": 0, "queue": 0})
            # Nothing is left of what has ended.
            while (await js.stream_info("KV_logos-open")).state.messages:
                await asyncio.sleep(0.01)
    assert sorted(letter.headers["Logos-Reason"].split(":")[0] for letter in dead if letter.headers) == [
        "content topic",
        "payload",
    ]
    assert [fate.subject for fate in fates] == ["logos.fates.shop.propagated", "logos.fates.shop.unconfirmed"]
    last: dict[str, Any] = json.loads(fates[1].data)
    assert (last["sendId"], last["final"], last["reason"]) == (
        "order-1",
        True,
        "ephemeral messages are not stored",
    )
    shard = autoshard(TOPIC, network.shard_count)
    sent = WakuMessage(b"from far", TOPIC, timestamp=last["timestamp"])
    digest = "0x" + message_hash(shard_topic(network.cluster, shard), sent).hex()
    assert message.headers is not None
    assert last["messageHash"] == digest == message.headers["Nats-Msg-Id"]


def test_the_programs_of_the_page_read_and_send(tmp_path: Path) -> None:
    with bridged_node(tmp_path, "--send-window=10s") as (server, _node, _bridge):
        environment = {**os.environ, "NATS_URL": server.url, "COUNT": "1"}

        def run(name: str) -> str:
            done = subprocess.run(
                [sys.executable, "-W", "error", "-c", EXAMPLES[name]],
                env=environment,
                capture_output=True,
                text=True,
                timeout=100,
            )
            assert done.returncode == 0, done.stderr
            return done.stdout

        fates = run("send").splitlines()
        assert [line.split()[:2] for line in fates] == [["order-1", "propagated"], ["order-1", "unconfirmed"]]
        assert run("read") == "/shop/1/orders/json b'{\"order\": 1}'\n"


@asyncio_test(90)
async def test_the_ended_sends_of_a_dead_bridge_are_settled_by_one_reading_of_the_fates(
    tmp_path: Path,
) -> None:
    """The bridge died between final fates and ends: half of the fates are published, beyond the window in
    which JetStream itself drops a second one."""
    count = 400
    with NatsServer() as server, single_node(tmp_path, kernel_options=("--shard=0",)) as node:
        server.wait_ready()
        async with jetstream(server) as js:
            await js.add_stream(name="logos-fates", subjects=["logos.fates.>"], duplicate_window=0.1)
            arguments = (f"--nats-url={server.url}", "--bridge-takeover-after=2", "--bridge-in-flight=50")
            network = NetworkInfo(cluster=1, shard_count=8, max_message_size=150 * 1024)
            with BridgeProcess(node.directory, *arguments) as bridge:
                bridge.wait_ready()
                await js.publish("$KV.logos-bridge.alive.dead", b"{}")
                for number in range(count):
                    record = dead_bridges_send(network, number.to_bytes(16, "big"), number + 1).ended(
                        "sent", ""
                    )
                    if number % 2:
                        ended = {"Nats-Msg-Id": f"{record.key}.final"}
                        await js.publish("logos.fates.shop.sent", b"{}", headers=ended)
                    await js.publish(f"$KV.logos-open.{record.key}", b"x", headers=record.to_headers())
                while (await js.stream_info("KV_logos-open")).state.messages:
                    await asyncio.sleep(0.05)
                assert (await js.stream_info("logos-fates")).state.messages == count
                bridge.wait_for(lambda status: counted(status, "bridge_in_sends", "taken_over") == count)
        sent = server.sent_messages("logos-bridge")
    # Not one reading for each: that would be some 100,000.
    assert sent < 40 * count, sent


@asyncio_test(60)
async def test_no_more_is_taken_from_the_queue_than_the_bound_of_bytes_lets(tmp_path: Path) -> None:
    """A node without peers: what it has taken stays open."""
    bound: dict[str, float] = {"logos_bridge.inward:_OPEN_BYTES": 3 * 150 * 1024}
    with NatsServer() as server, single_node(tmp_path, kernel_options=("--shard=0",)) as node:
        server.wait_ready()
        with BridgeProcess(node.directory, f"--nats-url={server.url}", constants=bound) as bridge:
            bridge.wait_ready()
            async with jetstream(server) as js:
                for _ in range(20):
                    await js.publish("logos.sends.toychat.2.huilong.proto", bytes(100 * 1024))
            status = bridge.wait_for(lambda status: status["in"] == {"open": 4, "queue": 16})
            assert counted(status, "bridge_in_open_bytes") == 4 * 100 * 1024


@pytest.mark.parametrize("restarted", [False, True], ids=["running", "restarted"])
@asyncio_test(90)
async def test_a_send_taken_back_ends_though_its_outcome_came_while_another_bridge_had_it(
    tmp_path: Path, *, restarted: bool
) -> None:
    """The Messaging API reports an outcome once. The record is here written again as the other bridge's."""
    quick = {"logos_bridge.fate_journal:_SETTLE_SECONDS": 0.3}
    with NatsServer() as server, node_with_sender(tmp_path) as (node, _sender):
        server.wait_ready()
        arguments = (f"--nats-url={server.url}", "--bridge-takeover-after=2")
        with BridgeProcess(node.directory, *arguments, constants=quick) as bridge:
            bridge.wait_ready()
            async with KernelClient.connect(node.run) as kernel, jetstream(server) as js:
                named = {"Logos-Client": "shop", "Logos-Ephemeral": "true"}
                await js.publish("logos.sends.toychat.2.huilong.proto", b"once", headers=named)
                last: dict[str, Any] = json.loads((await read(js, "logos-fates", 2))[1].data)
                bridge.wait_for(lambda status: counted(status, "bridge_in_fates", "unconfirmed"))
                request_id = bytes.fromhex(last["requestId"])
                record = dead_bridges_send(
                    kernel.network, request_id, 1, payload=b"once", timestamp=last["timestamp"]
                )
                if restarted:  # what it knew is gone, and its journal acknowledged
                    bridge.close()
                    bridge.start()
                    bridge.wait_ready()
                await js.publish("$KV.logos-bridge.alive.dead", b"{}")
                await js.publish(f"$KV.logos-open.{record.key}", b"once", headers=record.to_headers())
                bridge.wait_for(lambda status: counted(status, "bridge_in_sends", "taken_over"))
                while (await js.stream_info("KV_logos-open")).state.messages:
                    await asyncio.sleep(0.05)
                fates = (await js.stream_info("logos-fates")).state.messages
    assert fates == 2, "the final fate stands there once"
