"""Relay against peers that send rubbish, too much, or nothing, and peers that do not read."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import pytest
import trio

from kernel_proc.p2p.varint import encode as encode_varint
from kernel_proc.relay.messages import RelayMessage
from kernel_proc.relay.params import QueueParams, RelayParams
from kernel_proc.relay.rpc import RawMessage, Subscription
from kernel_proc.relay.rpc_writer import encode_message, encode_subscriptions
from kernel_proc.relay.validation import Verdict
from tests.support.aio import trio_test
from tests.support.raw_relay import LIMIT, RawPeer, frame, raw_peer
from tests.support.relay import LIMITS, TOPIC, RelayNode, connect, relay_node, waku
from tests.support.steps import HeaviestStep, LargestStep

pytestmark = pytest.mark.integration


async def meshed(peer: RawPeer, node: RelayNode) -> None:
    await peer.open(node)
    await peer.until(lambda: TOPIC in peer.control("graft"))


def tiny_messages(count: int) -> bytes:
    """One RPC with `count` distinct valid messages on the topic `t`."""
    body = bytearray()
    for n in range(count):
        body += b"\x12\x0c\x12\x07\x0a\x02" + n.to_bytes(2, "big") + b"\x12\x01t" + b"\x22\x01t"
    return bytes(body)


@trio_test()
async def test_an_rpc_of_3000_tiny_messages_lets_others_run_on_the_way() -> None:
    async with relay_node("t") as node, relay_node("t") as next_hop, raw_peer() as peer:
        await connect(node, next_hop, "t")
        await peer.host.connect(node.address)
        await peer.reopen(node, subscribe=False)
        deliver = node.relay.on_message
        assert deliver is not None

        def work(message: RelayMessage) -> None:
            """Take at least a tenth of a step for each message, whatever the machine."""
            begun = time.perf_counter()
            deliver(message)
            done.append(None)
            while time.perf_counter() - begun < RelayParams().max_hold / 10:
                pass

        done: list[None] = []
        node.relay.on_message = work
        instrument = LargestStep(done.__len__)
        trio.lowlevel.add_instrument(instrument)
        try:
            await peer.send(frame(tiny_messages(3_000)))
            await node.until_received(3_000)
            await next_hop.until_received(3_000)
        finally:
            trio.lowlevel.remove_instrument(instrument)
        # The reader looks at the clock after each 16 messages.
        assert instrument.most <= 32


@pytest.mark.parametrize(
    "body",
    [
        b"\x12\x00" * 100_000,
        b"\x1a\x00" * 100_000,
        b"\x1a\x07\x1a\x05\x0a\x03t/1" * 20_000,
        b"\x1a\x03\x2a\x01\x0a" * 30_000,
        b"\x0a\x05\x08\x01\x12\x01t\x0a\x05\x08\x00\x12\x01t" * 14_000,
    ],
    ids=["empty messages", "empty control", "grafts", "cut idontwant", "subscribe and unsubscribe"],
)
def test_other_large_rpcs_do_not_hold_the_loop_either(body: bytes) -> None:
    @trio_test()
    async def run() -> None:
        async with relay_node("t", "t/1", TOPIC) as node, raw_peer() as peer, raw_peer() as good:
            await peer.open(node)
            instrument = HeaviestStep()
            trio.lowlevel.add_instrument(instrument)
            try:
                await peer.send(frame(body))
                await node.until(lambda: node.relay.counters()["received_bytes"] >= len(body))
            finally:
                trio.lowlevel.remove_instrument(instrument)
            assert instrument.lines < 20 * len(body)
            await meshed(good, node)
            await good.send_message(waku(b"still there"))
            await node.until_received(1)

    run()


@trio_test()
async def test_garbage_rpcs_cost_the_sender_and_nothing_else() -> None:
    async with relay_node(TOPIC) as node, raw_peer() as peer:
        await meshed(peer, node)
        for body in (b"\xff\xff\xff", b"\x12\x05a", b"\x0b", b"\x1a\x04\x22\x05\x0a\x01"):
            await peer.send(frame(body))
        await peer.send_message(waku(b"after"))
        await node.until_received(1)
        assert node.relay.counters()["rpcs_malformed"] == 4
        score = node.relay.score(peer.host.peer_id)
        assert score is not None
        assert score.behaviour == -10 * 4**2


@pytest.mark.parametrize(
    "wire", [encode_varint(2**31 - 1) + b"x", b"\xff" * 20, encode_varint(LIMIT + 64 * 1024 + 1)]
)
def test_a_frame_that_is_too_large_ends_its_stream_only(wire: bytes) -> None:
    @trio_test()
    async def run() -> None:
        async with relay_node(TOPIC) as node, raw_peer() as peer:
            await meshed(peer, node)
            await peer.send(wire)
            await node.until(lambda: node.relay.counters()["frames_refused"] == 1)
            await peer.reopen(node)
            await peer.send_message(waku(b"again"))
            await node.until_received(1)

    run()


@trio_test()
async def test_an_rpc_a_little_above_the_limit_is_taken_but_no_message_that_could_not_be_passed_on() -> None:
    async with relay_node(TOPIC) as node, raw_peer() as peer:
        await meshed(peer, node)
        await peer.send_message(waku(bytes(LIMIT)))
        several = b"".join(
            encode_message(TOPIC.encode(), waku(bytes([n]) * 50_000))[3:]  # without the frame's length
            for n in range(4)
        )
        assert len(several) > LIMIT
        await peer.send(frame(several))
        await node.until_received(4)
        assert node.relay.counters()["oversize_ignored"] == 1


@trio_test()
async def test_a_frame_that_comes_byte_by_byte() -> None:
    async with relay_node(TOPIC) as node, raw_peer() as peer:
        await meshed(peer, node)
        data = b"\x12\x04/t/1\x0a\x64" + bytes(100)
        topic = TOPIC.encode()
        message = b"\x12" + bytes([len(data)]) + data + b"\x22" + bytes([len(topic)]) + topic
        for byte in frame(b"\x12" + encode_varint(len(message)) + message):
            await peer.send(bytes([byte]))
        await node.until_received(1)


@trio_test()
async def test_a_stream_that_ends_in_mid_frame() -> None:
    async with relay_node(TOPIC) as node, raw_peer() as peer:
        await meshed(peer, node)
        await peer.send(encode_varint(1000) + b"\x12")
        await peer.reopen(node)
        await peer.send_message(waku(b"x"))
        await node.until_received(1)


@trio_test()
async def test_thousands_of_subscriptions_are_bounded() -> None:
    async with relay_node(TOPIC) as node, raw_peer() as peer:
        await meshed(peer, node)
        entries = [Subscription(True, f"/waku/2/rs/1/{n}") for n in range(24_500)]
        for data in encode_subscriptions(entries, LIMIT):
            await peer.send(data)
        await peer.send_message(waku(b"x"))
        await node.until_received(1)
        assert node.relay.counters()["topics_over_limit"] == 24_500 - 1023


@trio_test(deadline=60)
async def test_a_peer_that_does_not_read_delays_no_other() -> None:
    """It loses what does not fit its queue, which is counted; the others get everything."""
    queues = QueueParams(message_bytes=512 * 1024)
    async with (
        relay_node(TOPIC, params=RelayParams(queues=queues)) as node,
        relay_node(TOPIC) as good,
        relay_node(TOPIC) as source,
        raw_peer() as stuck,
    ):
        await connect(node, good)
        await connect(source, node)
        await meshed(stuck, node)
        stuck.reading = False
        for n in range(3000):
            await source.relay.publish(TOPIC, waku(n.to_bytes(4, "big") + bytes(1020)))
            if n % 100 == 99:  # less than a queue: on a busy machine the good one may be slow too
                await good.until_received(n + 1)
        counters = node.relay.counters()
        assert counters["dropped_messages"] > 0
        assert counters["queued_bytes"] <= 600 * 1024


@trio_test(deadline=60)
async def test_an_own_publish_waits_for_a_stuck_peer_once_and_for_a_bounded_time() -> None:
    queues = QueueParams(message_bytes=256 * 1024, publish_wait=0.5)
    patient = dataclasses.replace(
        LIMITS, write_timeout=60.0
    )  # the test may take longer than a write is given
    async with (
        relay_node(TOPIC, params=RelayParams(queues=queues), limits=patient) as node,
        relay_node(TOPIC) as good,
        raw_peer() as stuck,
    ):
        await connect(node, good)
        await meshed(stuck, node)
        stuck.reading = False
        peers: list[int] = []
        for n in range(3000):
            peers.append((await node.relay.publish(TOPIC, waku(n.to_bytes(4, "big") + bytes(1020)))).peers)
            if n % 100 == 99:  # less than a queue: on a busy machine the good one may be slow too
                await good.until_received(n + 1)
        # That one wait is all there was: three thousand of them would not fit the deadline.
        assert peers[0] == 2
        assert peers[-1] == 1
        counters = node.relay.counters()
        assert counters["publish_timeouts"] == peers.count(1)
        stuck.reading = True
        await stuck.until(lambda: len(stuck.messages) >= peers.count(2))
        assert (await node.relay.publish(TOPIC, waku(b"back"))).peers == 2
        await stuck.until(lambda: len(stuck.messages) == peers.count(2) + 1)


@trio_test()
async def test_a_defect_in_a_listener_or_validator_costs_no_peer() -> None:
    def broken(_: object) -> Verdict:
        raise RuntimeError("defect")

    async with relay_node(TOPIC) as node, raw_peer() as peer:
        await meshed(peer, node)
        deliver, node.relay.on_message = node.relay.on_message, broken  # type: ignore[assignment]
        await peer.send_message(waku(b"1"))
        await node.until(lambda: node.relay.counters()["callback_errors"] == 1)
        node.relay.on_message = deliver
        asked: list[RelayMessage] = []

        def once(message: RelayMessage) -> Verdict:
            asked.append(message)
            if len(asked) == 1:
                raise RuntimeError("defect")
            return Verdict.ACCEPT

        node.relay.add_validator(once)
        await peer.send_message(waku(b"2"))
        await peer.send_message(waku(b"3"))
        await node.until_received(1)
        assert node.payloads == [b"3"]
        assert node.relay.counters()["validator_errors"] == 1
        score = node.relay.score(peer.host.peer_id)
        assert score is not None
        assert score.invalid == 0


@trio_test()
async def test_a_peer_that_ends_every_stream_at_once_is_given_up() -> None:
    params = RelayParams(reopen_attempts=4, reopen_delay=0.01)
    async with relay_node(TOPIC, params=params) as node, raw_peer() as peer:

        async def refuse(stream: Any) -> None:
            await stream.reset()

        peer.host.remove_stream_handler("/vac/waku/relay/2.0.0")
        peer.host.set_stream_handler("/vac/waku/relay/2.0.0", refuse)
        await peer.host.connect(node.address)
        await node.until(lambda: node.relay.counters()["peers_given_up"] == 1)
        assert node.relay.counters()["streams_opened"] <= 4
        assert node.relay.peers() == []
        assert (await node.relay.publish(TOPIC, waku(b"x"))).peers == 0


@trio_test()
async def test_messages_on_topics_we_are_not_on_are_ignored() -> None:
    async with relay_node(TOPIC) as node, raw_peer() as peer, raw_peer() as other:
        await meshed(peer, node)
        await meshed(other, node)
        await peer.send_message(waku(b"x"), "/waku/2/rs/42/9")
        await peer.send_message(waku(b"y"), "\xff")
        await peer.send_message(waku(b"z"))
        await other.until(lambda: bool(other.messages))
        assert other.messages == [RawMessage(TOPIC.encode(), waku(b"z"), False)]
        assert node.payloads == [b"z"]
        assert node.relay.counters()["not_subscribed"] == 2
