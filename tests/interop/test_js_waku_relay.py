"""Our relay with js-waku's, both ways, over TCP + yamux and over WebSocket + mplex."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import pytest

from ipc_schema.message import WakuMessage, encode_message, message_hash
from tests.interop.conftest import MakeJsPeer, MakeOurPeer
from tests.interop.inbox import CommandError
from tests.interop.js_waku import JsWakuPeer
from tests.interop.relay_peer import RelayNode

pytestmark = [pytest.mark.interop, pytest.mark.integration, pytest.mark.timeout(300)]

CONTENT_TOPIC = "/interop/1/relay/proto"
PUBSUB_TOPIC = "/waku/2/rs/42/0"
MAX_RPC = 153_600
"""Largest RPC that nwaku and we send (11/WAKU2-RELAY; nwaku applies its maximum to the whole RPC)."""
RPC_OVERHEAD = 25
"""Of one message on a topic of 15 characters: tags and lengths of publish, data and topic, and the topic."""
KIB = 1024


@dataclass(frozen=True, slots=True)
class Path:
    transport: str
    muxer: str

    def __str__(self) -> str:
        return f"{self.transport}-{self.muxer}"


PATHS = [Path("tcp", "yamux"), Path("ws", "mplex")]
each_path = pytest.mark.parametrize("path", PATHS, ids=str)


def largest_payload() -> int:
    """Bytes of payload in the largest message of ours that fits in one RPC."""
    empty = WakuMessage(b"", CONTENT_TOPIC, timestamp=time.time_ns(), meta=b"")
    fixed = len(encode_message(empty)) + 2  # its length takes three bytes instead of one
    return MAX_RPC - RPC_OVERHEAD - fixed


def make_js(make: MakeJsPeer, path: Path, **arguments: object) -> JsWakuPeer:
    js = make(transports=[path.transport], muxers=[path.muxer], **arguments)
    js.subscribe(CONTENT_TOPIC)
    return js


def until_meshed(one: RelayNode, two: RelayNode, *, deadline: float = 30.0) -> None:
    one.wait_meshed(two.peer_id, deadline=deadline)
    two.wait_meshed(one.peer_id, deadline=deadline)


def send_and_check(sender: RelayNode, receiver: RelayNode, payload: bytes, **fields: object) -> None:
    """One message from node to node: same content, and the same hash on both sides and in our own rule."""
    timestamp_ms = time.time_ns() // 1_000_000
    digest, peers = sender.publish(CONTENT_TOPIC, payload, timestamp_ms=timestamp_ms, **fields)  # type: ignore[arg-type]
    assert receiver.peer_id in peers
    seen = receiver.next_message(lambda message: message.hash == digest)
    assert seen.payload == payload
    assert seen.content_topic == CONTENT_TOPIC
    assert seen.pubsub_topic == PUBSUB_TOPIC
    assert seen.timestamp == timestamp_ms * 1_000_000
    assert seen.version == 0
    assert seen.meta == fields.get("meta", b"")
    assert seen.ephemeral == fields.get("ephemeral", False)
    ours = WakuMessage(payload, CONTENT_TOPIC, timestamp=seen.timestamp, meta=seen.meta)
    assert digest == message_hash(PUBSUB_TOPIC, ours)


@each_path
@pytest.mark.parametrize("dialler", ["ours", "js"])
def test_messages_of_all_sizes_both_ways(
    make_js_peer: MakeJsPeer, make_our_peer: MakeOurPeer, path: Path, dialler: str
) -> None:
    check_all_sizes(make_our_peer(), make_js(make_js_peer, path), path, dialler)


@each_path
def test_messages_of_all_sizes_both_ways_without_the_ipc(
    make_js_peer: MakeJsPeer, make_relay_host: MakeOurPeer, path: Path
) -> None:
    check_all_sizes(make_relay_host(), make_js(make_js_peer, path), path, "js")


def check_all_sizes(ours: RelayNode, js: JsWakuPeer, path: Path, dialler: str) -> None:
    if dialler == "ours":
        ours.dial(js.address(path.transport))
    else:
        js.dial(ours.address(path.transport))
    until_meshed(ours, js)

    (connection,) = js.peers()[ours.peer_id].connections
    assert connection.direction == ("inbound" if dialler == "ours" else "outbound")
    assert connection.muxer.startswith(f"/{path.muxer}/")
    assert connection.encryption == "/noise"

    for size in (1, 150, KIB, 14 * KIB, 100 * KIB, largest_payload()):
        payload = os.urandom(size)
        send_and_check(ours, js, payload)
        send_and_check(js, ours, os.urandom(size))
    send_and_check(ours, js, b"with meta", meta=bytes(range(64)), ephemeral=True)
    send_and_check(js, ours, b"with meta", meta=bytes(range(64)), ephemeral=True)
    assert not ours.pending("message")  # nothing came twice, nothing of our own came back
    assert not js.pending("message")


@each_path
def test_one_byte_above_the_largest_is_refused_by_us(
    make_js_peer: MakeJsPeer, make_our_peer: MakeOurPeer, path: Path
) -> None:
    ours = make_our_peer()
    js = make_js(make_js_peer, path)
    ours.dial(js.address(path.transport))
    until_meshed(ours, js)
    with pytest.raises(CommandError, match="Message size exceeded maximum of 153600 bytes"):
        ours.publish(CONTENT_TOPIC, os.urandom(largest_payload() + 1))
    send_and_check(ours, js, b"the stream is still good")


@each_path
def test_metadata_is_exchanged_both_ways(
    make_js_peer: MakeJsPeer, make_our_peer: MakeOurPeer, path: Path
) -> None:
    ours = make_our_peer()
    js = make_js(make_js_peer, path)
    js.dial(ours.address(path.transport))
    assert ours.wait_shards(js.peer_id) == (42, (0,))  # our question, js-waku's answer
    assert js.wait_shards(ours.peer_id) == (42, (0,))  # what our question said of us


@each_path
def test_a_js_peer_asks_for_our_metadata(
    make_js_peer: MakeJsPeer, make_our_peer: MakeOurPeer, path: Path
) -> None:
    ours = make_our_peer()
    js = make_js(make_js_peer, path)
    js.dial(ours.address(path.transport))
    js.wait_shards(ours.peer_id)
    for _ in range(8):  # each takes the stream that was opened ahead, and opens the next
        assert js.metadata(ours.peer_id) == (42, (0,))


def test_a_js_peer_of_another_cluster_is_disconnected(
    make_js_peer: MakeJsPeer, make_our_peer: MakeOurPeer
) -> None:
    ours = make_our_peer()
    js = make_js(make_js_peer, PATHS[0], cluster=43)
    js.dial(ours.address("tcp"))
    js.wait_disconnected(ours.peer_id)
    assert ours.peers() == {}


@each_path
def test_we_relay_between_two_js_peers(
    make_js_peer: MakeJsPeer, make_our_peer: MakeOurPeer, path: Path
) -> None:
    ours = make_our_peer()
    left, right = make_js(make_js_peer, path), make_js(make_js_peer, path)
    for js in (left, right):
        js.dial(ours.address(path.transport))
        until_meshed(ours, js)
    for sender, receiver in ((left, right), (right, left)):
        digest, peers = sender.publish(CONTENT_TOPIC, payload := os.urandom(20 * KIB))
        assert peers == (ours.peer_id,)
        for node in (ours, receiver):
            assert node.next_message(lambda message: message.hash == digest).payload == payload  # noqa: B023
    assert not left.pending("message")
    assert not right.pending("message")


@each_path
def test_a_burst_arrives_whole_and_once(
    make_js_peer: MakeJsPeer, make_our_peer: MakeOurPeer, path: Path
) -> None:
    count = 300
    ours = make_our_peer()
    js = make_js(make_js_peer, path)
    ours.dial(js.address(path.transport))
    until_meshed(ours, js)
    for sender, receiver in ((ours, js), (js, ours)):
        sent = {sender.publish(CONTENT_TOPIC, os.urandom(KIB))[0] for _ in range(count)}
        assert {receiver.next_message().hash for _ in range(count)} == sent
        assert not receiver.pending("message")


@each_path
def test_a_restarted_js_peer_is_found_again(
    make_js_peer: MakeJsPeer, make_our_peer: MakeOurPeer, path: Path
) -> None:
    seed = os.urandom(32)
    js = make_js(make_js_peer, path, seed=seed)
    address = js.address(path.transport)
    ours = make_our_peer(static=[address])
    until_meshed(ours, js)
    send_and_check(ours, js, b"before")
    js.kill()
    ours.wait_disconnected(js.peer_id)

    port = int(address.split("/")[4])
    again = make_js(make_js_peer, path, seed=seed, **{f"{path.transport}_port": port})
    assert again.peer_id == js.peer_id
    until_meshed(ours, again)
    send_and_check(ours, again, b"after")
    send_and_check(again, ours, b"after, back")


@each_path
def test_after_a_restart_of_ours_messages_flow_again(
    make_js_peer: MakeJsPeer, make_our_peer: MakeOurPeer, path: Path
) -> None:
    seed = os.urandom(32)
    js = make_js(make_js_peer, path)
    static = [js.address(path.transport)]
    ours = make_our_peer(static=static, seed=seed)
    until_meshed(ours, js)
    send_and_check(js, ours, b"before")
    ours.kill()
    js.wait_disconnected(ours.peer_id)

    again = make_our_peer(static=static, seed=seed)
    assert again.peer_id == ours.peer_id
    until_meshed(again, js)
    send_and_check(js, again, b"after")
    send_and_check(again, js, b"after, back")
