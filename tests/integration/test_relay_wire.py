"""What a relay node says on the wire, seen by a peer that speaks the protocol by hand."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256

import pytest
import trio

from kernel_proc.p2p.keys import NodeKey
from kernel_proc.relay.params import AGENT_PREFIX, GossipParams, RelayParams
from kernel_proc.relay.rpc import Control, IHave, Prune, RawMessage, Subscription
from kernel_proc.relay.rpc_writer import MAX_CONTROL, encode_control
from tests.support.aio import trio_test
from tests.support.raw_relay import LIMIT, RawPeer, frame, raw_peer
from tests.support.relay import TOPIC, RelayNode, connect, relay_node, waku

pytestmark = pytest.mark.integration

FAST = RelayParams(gossip=GossipParams(heartbeat_interval=0.05, heartbeat_initial_delay=0.01))


async def meshed(peer: RawPeer, node: RelayNode) -> None:
    await peer.open(node)
    await peer.until(lambda: TOPIC in peer.control("graft"))


@trio_test()
async def test_it_begins_with_its_subscriptions_and_grafts_us() -> None:
    async with relay_node(TOPIC) as node, raw_peer() as peer:
        await meshed(peer, node)
        assert peer.subscriptions == [Subscription(True, TOPIC)]
        assert peer.control("graft") == [TOPIC]


@trio_test()
async def test_messages_carry_nothing_but_data_and_topic() -> None:
    async with relay_node(TOPIC) as node, raw_peer() as peer:
        await meshed(peer, node)
        data = waku(b"x")
        await node.relay.publish(TOPIC, data)
        await peer.until(lambda: bool(peer.messages))
        assert peer.messages == [RawMessage(TOPIC.encode(), data, False)]


@trio_test()
async def test_bytes_are_forwarded_as_they_came() -> None:
    """An unusual encoding of a message keeps its bytes, and so its id."""
    async with relay_node(TOPIC) as node, raw_peer() as one, raw_peer() as two:
        await meshed(one, node)
        await meshed(two, node)
        data = b"\x12\x02/t" + b"\x7a\x01?" + b"\x0a\x01p"
        await one.send_message(data)
        await two.until(lambda: bool(two.messages))
        assert two.messages == [RawMessage(TOPIC.encode(), data, False)]
        assert one.messages == []


@trio_test()
async def test_signed_messages_are_dropped_and_undecodable_ones_held_against_the_sender() -> None:
    async with relay_node(TOPIC) as node, raw_peer() as peer:
        await meshed(peer, node)
        good = waku(b"good")
        topic = b"\x22" + bytes([len(TOPIC)]) + TOPIC.encode()
        for extra in (b"\x0a\x01f", b"\x1a\x01s", b"\x2a\x01g", b"\x32\x01k"):
            message = extra + b"\x12" + bytes([len(good)]) + good + topic
            await peer.send(frame(b"\x12" + bytes([len(message)]) + message))
        await peer.send_message(b"\x12\x02/t")  # no payload tag
        await peer.send_message(b"\x0a\x01p")  # no content topic tag
        await peer.send_message(b"\xff\xff")
        await peer.send_message(good)  # the bad copies have not poisoned it
        await node.until_received(1)
        assert node.payloads == [b"good"]
        score = node.relay.score(peer.host.peer_id)
        assert score is not None
        assert score.invalid == -100 * 3**2
        counters = node.relay.counters()
        assert (counters["dropped_signed"], counters["rejected_undecodable"]) == (4, 3)


@trio_test()
async def test_what_a_peer_offers_is_asked_for_and_delivered() -> None:
    async with relay_node(TOPIC) as node, raw_peer() as peer:
        await meshed(peer, node)
        data = waku(b"missed")
        message_id = sha256(data).digest()
        await peer.send_control(ihave=[IHave(TOPIC, [message_id])])
        await peer.until(lambda: message_id in peer.control("iwant"))
        await peer.send_message(data)
        await node.until_received(1)


@trio_test()
async def test_a_peer_outside_the_mesh_recovers_by_ihave_and_iwant() -> None:
    async with relay_node(TOPIC, params=FAST) as node, raw_peer() as peer, raw_peer() as source:
        await meshed(source, node)
        await meshed(peer, node)
        await peer.send_control(prune=[Prune(TOPIC, 60)])
        await node.until(lambda: peer.host.peer_id not in node.relay.mesh_peers(TOPIC))
        data = waku(b"forwarded to the mesh only")
        message_id = sha256(data).digest()
        await source.send_message(data)
        await peer.until(lambda: any(message_id in i.message_ids for i in peer.control("ihave")))  # type: ignore[attr-defined]
        assert peer.messages == []
        await peer.send_control(iwant=[message_id])
        await peer.until(lambda: bool(peer.messages))
        assert peer.messages == [RawMessage(TOPIC.encode(), data, False)]


@trio_test()
async def test_large_messages_are_announced_with_idontwant() -> None:
    async with relay_node(TOPIC) as node, raw_peer() as one, raw_peer() as two:
        await meshed(one, node)
        await meshed(two, node)
        data = waku(bytes(2048))
        await one.send_message(data)
        await two.until(lambda: bool(two.messages))
        assert two.control("idontwant") == [sha256(data).digest()]
        assert one.control("idontwant") == []


@trio_test()
async def test_idontwant_is_understood() -> None:
    async with relay_node(TOPIC) as node, raw_peer() as one, raw_peer() as two:
        await meshed(one, node)
        await meshed(two, node)
        unwanted, wanted = waku(b"1"), waku(b"2")
        await two.send_control(idontwant=[sha256(unwanted).digest()])
        await node.until(lambda: node.relay.counters()["idontwant_received"] == 1)
        await one.send_message(unwanted)
        await one.send_message(wanted)
        await two.until(lambda: bool(two.messages))
        assert [m.data for m in two.messages] == [wanted]


@trio_test()
async def test_leaving_says_unsubscribe_and_prune_with_five_seconds() -> None:
    async with relay_node(TOPIC) as node, raw_peer() as peer:
        await meshed(peer, node)
        node.relay.unsubscribe(TOPIC)
        await peer.until(lambda: bool(peer.control("prune")))
        assert peer.control("prune") == [Prune(TOPIC, 5)]
        assert peer.subscriptions[-1] == Subscription(False, TOPIC)


@trio_test()
async def test_the_end_of_our_stream_is_noticed_and_everything_is_said_again() -> None:
    """nwaku ends its read loop after an oversize frame, without closing the connection."""
    async with relay_node(TOPIC) as node, raw_peer(agent=f"{AGENT_PREFIX}test") as peer:
        await meshed(peer, node)
        for turn in range(3):
            peer.heard.clear()
            if turn % 2:
                await peer.inbound[-1].close()
            else:
                await peer.inbound[-1].reset()
            await peer.until(lambda: TOPIC in peer.control("graft"))
            assert peer.subscriptions == [Subscription(True, TOPIC)]
            await node.relay.publish(TOPIC, waku(b"after %d" % turn))
            await peer.until(lambda: bool(peer.messages))
        assert node.relay.counters()["streams_lost"] == 3


@trio_test()
async def test_a_stream_to_another_implementation_is_reopened_without_graft() -> None:
    """nim-libp2p keeps a back-off after the end of a stream, and says nothing of it."""
    async with relay_node(TOPIC) as node, raw_peer() as peer:
        await meshed(peer, node)
        for turn in range(2):
            peer.heard.clear()
            await peer.inbound[-1].close()
            await peer.until(lambda: bool(peer.subscriptions))
            assert node.relay.mesh_peers(TOPIC) == []
            await node.relay.publish(TOPIC, waku(b"after %d" % turn))  # what follows the hello has come, too
            await peer.until(lambda: bool(peer.messages))
            assert peer.control("graft") == []
            await peer.send_control(graft=[TOPIC])
            await node.until(lambda: node.relay.mesh_peers(TOPIC) == [peer.host.peer_id])


@trio_test()
async def test_a_new_stream_of_another_implementation_that_grafts_is_taken() -> None:
    async with relay_node(TOPIC) as node, raw_peer() as peer:
        await meshed(peer, node)
        await peer.reopen(node)  # the old one ends only now, by our hand
        await node.until(lambda: not node.relay.mesh_peers(TOPIC))
        await peer.send_control(graft=[TOPIC])
        await node.until(lambda: node.relay.mesh_peers(TOPIC) == [peer.host.peer_id])
        assert peer.control("prune") == [Prune(TOPIC, 1)]


@trio_test()
async def test_a_reconnect_is_not_followed_by_a_graft_until_the_silence_is_over() -> None:
    key = NodeKey.generate()
    params = RelayParams(gossip=replace(FAST.gossip, link_loss_backoff=1.0))
    async with relay_node(TOPIC, params=params) as node:
        async with raw_peer(key) as peer:
            await meshed(peer, node)
        await node.until(lambda: not node.relay.peers())
        lost = trio.current_time()
        async with raw_peer(key) as peer:
            await meshed(peer, node)
            assert trio.current_time() - lost >= 0.9


@trio_test()
async def test_our_new_stream_replaces_the_old_one() -> None:
    async with relay_node(TOPIC) as node, raw_peer() as peer:
        await meshed(peer, node)
        await peer.send_message(waku(b"1"))
        await node.until_received(1)
        await peer.reopen(node)
        await peer.send_message(waku(b"2"))
        await node.until_received(2)
        assert node.relay.counters()["streams_replaced"] == 1


@trio_test()
async def test_a_back_off_holds_across_a_reconnect() -> None:
    key = NodeKey.generate()
    async with relay_node(TOPIC, params=FAST) as node:
        async with raw_peer(key, agent=f"{AGENT_PREFIX}test") as peer:
            await meshed(peer, node)
            await peer.send_control(prune=[Prune(TOPIC, 2)])
            await node.until(lambda: not node.relay.mesh_peers(TOPIC))
            pruned = trio.current_time()
        await node.until(lambda: not node.relay.peers())
        async with raw_peer(key, agent=f"{AGENT_PREFIX}test") as peer:
            await meshed(peer, node)
            assert trio.current_time() - pruned >= 2


@trio_test()
async def test_a_peer_without_relay_is_left_in_peace() -> None:
    async with relay_node(TOPIC, params=FAST) as node, relay_node() as other, raw_peer() as light:
        light.host.remove_stream_handler("/vac/waku/relay/2.0.0")
        await light.host.connect(node.address)
        await other.host.connect(node.address)
        await node.until(lambda: node.relay.peers() == [other.peer_id])
        await node.until(lambda: node.host.identity(light.host.peer_id) is not None)
        assert light.host.peer_id not in node.relay.peers()
        await node.until(lambda: node.relay.counters()["streams_opened"] == 1)


@trio_test()
async def test_no_control_frame_is_above_what_rust_takes_however_much_there_is_to_say() -> None:
    async with relay_node(TOPIC) as node, raw_peer() as peer:
        await meshed(peer, node)
        ids = [n.to_bytes(32, "big") for n in range(4500)]
        said = Control()
        said.ihave.append(IHave(TOPIC, ids))
        await peer.send(b"".join(encode_control(said, LIMIT)))  # in one write: they are answered together
        await peer.until(lambda: len(peer.control("iwant")) == len(ids))
        for n in range(9000):
            node.relay.subscribe(f"/waku/2/rs/42/{n}")
        await peer.until(lambda: len({s.topic for s in peer.subscriptions}) == 9000)
        peer.heard.clear()
        await peer.inbound[-1].reset()
        await peer.until(lambda: len(peer.subscriptions) == 9000)
        assert 16_000 < max(peer.frame_sizes) <= MAX_CONTROL


@trio_test()
async def test_a_peer_far_below_zero_is_disconnected() -> None:
    async with relay_node(TOPIC) as node, raw_peer() as peer:
        await meshed(peer, node)
        for n in range(12):
            await peer.send_message(b"\xff%d" % n)
        await node.until(lambda: not node.host.is_connected(peer.host.peer_id))
        assert node.relay.peers() == []
        assert node.relay.counters()["peers_graylisted"] == 1


@trio_test()
async def test_listeners_hear_of_mesh_changes() -> None:
    changes: list[frozenset[str]] = []
    async with relay_node(TOPIC) as a, relay_node(TOPIC) as b:
        a.relay.on_change = changes.append
        await connect(b, a)
        assert frozenset({TOPIC}) in changes
        seen = len(changes)
        await b.host.disconnect(a.peer_id, "test")
        while len(changes) == seen:
            await trio.sleep(0.01)
        assert a.relay.mesh_peers(TOPIC) == []
