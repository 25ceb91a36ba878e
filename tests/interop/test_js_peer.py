"""The js-waku node itself, between two of its kind: what the other tests rest on."""

from __future__ import annotations

import os

import pytest

from ipc_schema.message import WakuMessage, message_hash
from tests.interop.conftest import MakeJsPeer
from tests.interop.inbox import CommandError

pytestmark = [pytest.mark.interop, pytest.mark.timeout(300)]

CONTENT_TOPIC = "/interop/1/relay/proto"


@pytest.mark.parametrize(("transport", "muxer"), [("tcp", "yamux"), ("ws", "mplex")])
def test_two_js_peers_relay_to_each_other(make_js_peer: MakeJsPeer, transport: str, muxer: str) -> None:
    one = make_js_peer(transports=[transport], muxers=[muxer])
    two = make_js_peer(transports=[transport], muxers=[muxer])
    two.subscribe(CONTENT_TOPIC)
    assert one.dial(two.address(transport)) == two.peer_id
    one.wait_meshed(two.peer_id)
    two.wait_meshed(one.peer_id)
    payload = os.urandom(100 * 1024)
    digest, sent_to = one.publish(CONTENT_TOPIC, payload, timestamp_ms=1_700_000_000_123, meta=b"meta")
    assert sent_to == (two.peer_id,)
    message = two.next_message()
    assert (message.payload, message.meta, message.timestamp) == (payload, b"meta", 1_700_000_000_123_000_000)
    expected = WakuMessage(payload, CONTENT_TOPIC, timestamp=message.timestamp, meta=b"meta")
    assert message.hash == digest == message_hash(message.pubsub_topic, expected)
    (connection,) = two.peers()[one.peer_id].connections
    assert connection.muxer.startswith(f"/{muxer}/")
    assert connection.encryption == "/noise"
    assert one.metadata(two.peer_id) == (42, (0,))
    assert two.wait_shards(one.peer_id) == (42, (0,))


def test_a_js_peer_keeps_its_identity_over_a_restart(make_js_peer: MakeJsPeer) -> None:
    seed = bytes(range(32))
    one = make_js_peer(transports=["tcp"], seed=seed)
    port = int(one.address("tcp").split("/")[4])
    one.kill()
    again = make_js_peer(transports=["tcp"], seed=seed, tcp_port=port)
    assert again.addresses == one.addresses


def test_publishing_without_peers_is_an_error(make_js_peer: MakeJsPeer) -> None:
    with pytest.raises(CommandError, match="NoPeersSubscribedToTopic"):
        make_js_peer().publish(CONTENT_TOPIC, b"x")
