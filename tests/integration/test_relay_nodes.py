"""Relay nodes over real libp2p, in one process."""

from __future__ import annotations

import coincurve
import pytest

from ipc_schema.message import WakuMessage, encode_message
from kernel_proc.relay.messages import RelayMessageInvalid, RelayMessageTooLarge
from kernel_proc.relay.params import GossipParams, RelayParams
from kernel_proc.relay.validation import SignedShard, protected_shard_hash
from tests.support.aio import trio_test
from tests.support.relay import TOPIC, connect, relay_node, waku

pytestmark = pytest.mark.integration


@trio_test()
async def test_a_message_goes_to_the_neighbour_and_is_not_delivered_to_its_sender() -> None:
    async with relay_node(TOPIC) as a, relay_node(TOPIC) as b:
        await connect(a, b)
        data = waku(b"hello")
        result = await a.relay.publish(TOPIC, data)
        assert (result.peers, result.duplicate) == (1, False)
        await b.until_received(1)
        (message,) = b.received
        assert (message.topic, message.data, message.from_peer) == (TOPIC, data, a.peer_id)
        assert message.message.payload == b"hello"
        assert message.message_id == result.message_id
        assert a.received == []


@trio_test()
async def test_a_message_crosses_the_node_in_the_middle_once() -> None:
    async with relay_node(TOPIC) as a, relay_node(TOPIC) as b, relay_node(TOPIC) as c:
        await connect(a, b)
        await connect(b, c)
        sent = [waku(b"%d" % n) for n in range(200)]
        for data in sent:
            await a.relay.publish(TOPIC, data)
        await c.until_received(len(sent))
        assert [m.data for m in c.received] == sent
        assert [m.data for m in b.received] == sent
        assert a.relay.counters()["received"] == 0


@trio_test(deadline=60)
async def test_an_unpaced_burst_loses_nothing() -> None:
    async with relay_node(TOPIC) as a, relay_node(TOPIC) as b, relay_node(TOPIC) as c:
        await connect(a, b)
        await connect(b, c)
        for n in range(6000):
            result = await a.relay.publish(TOPIC, waku(n.to_bytes(4, "big") + bytes(1020)))
            assert result.peers == 1
        await c.until_received(6000)
        assert [int.from_bytes(p[:4], "big") for p in c.payloads] == list(range(6000))
        assert len(b.received) == 6000
        for node in (a, b, c):
            assert node.relay.counters()["dropped_messages"] == 0


@trio_test()
async def test_publishing_twice_is_not_an_error_and_can_be_forced() -> None:
    async with relay_node(TOPIC) as a, relay_node(TOPIC) as b:
        alone = await a.relay.publish(TOPIC, waku(b"alone"))
        assert (alone.peers, alone.duplicate) == (0, False)
        await connect(a, b)
        again = await a.relay.publish(TOPIC, waku(b"alone"))
        assert (again.peers, again.duplicate) == (0, True)
        forced = await a.relay.publish(TOPIC, waku(b"alone"), force=True)
        assert (forced.peers, forced.duplicate) == (1, True)
        await b.until_received(1)
        assert b.payloads == [b"alone"]


@trio_test()
async def test_the_largest_message_passes_and_one_byte_more_is_refused_here() -> None:
    async with relay_node(TOPIC) as a, relay_node(TOPIC) as b:
        await connect(a, b)
        overhead = len(waku(bytes(150_000))) - 150_000
        largest = waku(bytes(153_575 - overhead))
        assert len(largest) == 153_575
        await a.relay.publish(TOPIC, largest)
        await b.until_received(1)
        assert b.received[0].data == largest
        with pytest.raises(RelayMessageTooLarge, match="Message size exceeded maximum of 153600 bytes"):
            await a.relay.publish(TOPIC, waku(bytes(153_576 - overhead)))


@trio_test()
async def test_bytes_that_are_not_a_waku_message_are_not_published() -> None:
    async with relay_node(TOPIC) as a:
        with pytest.raises(RelayMessageInvalid):
            await a.relay.publish(TOPIC, b"\x12\x01x")


@trio_test()
async def test_leaving_a_topic_ends_mesh_and_delivery() -> None:
    async with relay_node(TOPIC) as a, relay_node(TOPIC) as b:
        await connect(a, b)
        b.relay.unsubscribe(TOPIC)
        await a.until(lambda: not a.relay.topic_peers(TOPIC) and not a.relay.mesh_peers(TOPIC))
        assert (await a.relay.publish(TOPIC, waku(b"x"))).peers == 0


@trio_test()
async def test_publishing_without_subscribing_reaches_the_topic() -> None:
    async with relay_node() as a, relay_node(TOPIC) as b:
        await a.host.connect(b.address)
        await a.until(lambda: a.relay.topic_peers(TOPIC) == [b.peer_id])
        assert (await a.relay.publish(TOPIC, waku(b"x"))).peers == 1
        await b.until_received(1)


@trio_test()
async def test_after_a_reconnect_messages_flow_again_both_ways() -> None:
    async with relay_node(TOPIC) as a, relay_node(TOPIC) as b:
        for turn in range(3):
            await connect(a, b)
            assert (await a.relay.publish(TOPIC, waku(b"a%d" % turn))).peers == 1
            assert (await b.relay.publish(TOPIC, waku(b"b%d" % turn))).peers == 1
            await a.until_received(turn + 1)
            await b.until_received(turn + 1)
            await (a, b)[turn % 2].host.disconnect((b, a)[turn % 2].peer_id, "test")
            await a.until(lambda: not a.relay.peers())
            await b.until(lambda: not b.relay.peers())


@trio_test()
async def test_a_node_outside_the_mesh_gets_what_it_missed_by_gossip() -> None:
    """B grafts no peer (D = 0): what A forwards reaches it by IHAVE and IWANT only."""
    alone = GossipParams(d=0, d_low=0, d_high=0, d_out=0, heartbeat_interval=0.1)
    quick = GossipParams(heartbeat_interval=0.1)
    async with (
        relay_node(TOPIC, params=RelayParams(gossip=quick)) as a,
        relay_node(TOPIC, params=RelayParams(gossip=alone)) as b,
        relay_node(TOPIC) as source,
    ):
        await connect(source, a)
        await b.host.connect(a.address)
        await a.until(lambda: b.peer_id in a.relay.topic_peers(TOPIC))
        await a.until(lambda: b.peer_id not in a.relay.mesh_peers(TOPIC))  # B refuses the GRAFT
        sent = [waku(b"%d" % n) for n in range(50)]
        for data in sent:
            await source.relay.publish(TOPIC, data)
        await b.until_received(len(sent))
        assert {m.data for m in b.received} == set(sent)
        assert b.relay.counters()["iwant_sent"] >= len(sent)


@trio_test()
async def test_only_the_waku_protocol_is_offered() -> None:
    async with relay_node(TOPIC) as a, relay_node(TOPIC) as b:
        await connect(a, b)
        identity = a.host.identity(b.peer_id)
        assert identity is not None
        pubsub = {p for p in identity.protocols if "relay" in p or "meshsub" in p or "floodsub" in p}
        assert pubsub == {"/vac/waku/relay/2.0.0"}


@trio_test()
async def test_a_protected_shard_takes_the_owners_messages_only() -> None:
    owner = coincurve.PrivateKey(b"\x07" * 32)
    now = 1_700_000_000_000_000_000
    message = WakuMessage(b"signed", "/a/1/b/c", timestamp=now)
    digest = protected_shard_hash(TOPIC, message)
    signed = encode_message(message._replace(meta=owner.sign_recoverable(digest, hasher=None)[:64]))
    async with relay_node(TOPIC) as a, relay_node(TOPIC) as b:
        b.relay.add_validator(SignedShard(TOPIC, owner.public_key.format(), lambda: now))
        await connect(a, b)
        await a.relay.publish(TOPIC, waku(b"unsigned"))
        await a.relay.publish(TOPIC, signed)
        await b.until_received(1)
        assert b.payloads == [b"signed"]
        with pytest.raises(RelayMessageInvalid):
            await b.relay.publish(TOPIC, waku(b"unsigned"))
