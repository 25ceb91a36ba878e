"""Peer exchange of PRUNEs with js-libp2p's gossipsub, and signed peer records with js-libp2p, both ways."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from kernel_proc.p2p.keys import NodeKey
from kernel_proc.p2p.peer_record import open_envelope, seal
from tests.interop.conftest import MakeJsPeer, MakeOurPeer
from tests.interop.js_waku import JS_FOLDER
from tests.interop.relay_peer import RelayPeer

pytestmark = [pytest.mark.interop, pytest.mark.integration, pytest.mark.timeout(300)]

CONTENT_TOPIC = "/interop/1/relay/proto"
LISTEN = ["/ip4/192.0.2.7/tcp/60000", "/dns4/node.example/tcp/8000/ws", "/ip6/2001:db8::1/tcp/443/wss"]


def js_record(asked: dict[str, Any]) -> dict[str, Any]:
    """Ask js-libp2p to seal or to open a record (`js/peer_record.mjs`)."""
    done = subprocess.run(
        ["node", "--import", "./polyfill.mjs", "peer_record.mjs"],
        cwd=JS_FOLDER,
        input=json.dumps(asked) + "\n",
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("key", ["ed25519", "secp256k1", "rsa"])
def test_a_record_of_js_libp2p_opens_here(js_packages: None, key: str) -> None:
    made = js_record({"seal": {"key": key, "addresses": LISTEN, "seq": str(2**64 - 1)}})
    record = open_envelope(bytes.fromhex(made["envelope"]))
    assert (record.peer_id, record.seq, list(record.addresses)) == (made["peer_id"], 2**64 - 1, LISTEN)


def test_a_record_of_ours_opens_in_js_libp2p(js_packages: None) -> None:
    key = NodeKey.generate()
    record = seal(key, LISTEN, 1_700_000_000_123)
    assert js_record({"open": record.envelope.hex()}) == {
        "peer_id": key.peer_id,
        "seq": "1700000000123",
        "addresses": LISTEN,
    }
    forged = record.envelope[:-1] + bytes([record.envelope[-1] ^ 1])
    assert "error" in js_record({"open": forged.hex()})


def test_js_prunes_us_and_we_go_where_it_says(make_js_peer: MakeJsPeer, make_our_peer: MakeOurPeer) -> None:
    hub = make_js_peer(transports=["tcp"], exchange=True, degree=1)
    other = make_js_peer(transports=["tcp"])
    for js in (hub, other):
        js.subscribe(CONTENT_TOPIC)
    other.dial(hub.address("tcp"))
    hub.wait_meshed(other.peer_id)
    ours = make_our_peer(options=["--relay-peer-exchange", "--ip-colocation-limit=0"])
    ours.dial(hub.address("tcp"))
    ours.wait_connected(other.peer_id, deadline=30.0)
    ours.wait_meshed(other.peer_id, deadline=30.0)


def test_we_prune_js_and_it_goes_where_we_say(make_js_peer: MakeJsPeer, make_relay_host: MakeOurPeer) -> None:
    hub = make_relay_host(degree=1)
    assert isinstance(hub, RelayPeer)
    other = make_js_peer(transports=["tcp"])
    newcomer = make_js_peer(transports=["tcp"], exchange=True)
    for js in (other, newcomer):
        js.subscribe(CONTENT_TOPIC)
    other.dial(hub.address("tcp"))
    hub.wait_meshed(other.peer_id)
    hub.wait_shards(other.peer_id)  # it is identified by then
    newcomer.dial(hub.address("tcp"))
    newcomer.wait_connected(other.peer_id, deadline=30.0)
    newcomer.wait_meshed(other.peer_id, deadline=30.0)
    assert hub.mesh().mesh == (other.peer_id,)
