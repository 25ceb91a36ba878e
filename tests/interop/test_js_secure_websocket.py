"""Secure WebSockets between our kernel and js-libp2p, dialled from either side, with certificates checked."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.interop.conftest import MakeJsPeer, MakeOurPeer
from tests.interop.inbox import CommandError
from tests.interop.relay_peer import RelayNode
from tests.interop.test_js_waku_relay import CONTENT_TOPIC, send_and_check, until_meshed
from tests.support.certificates import Certificates

pytestmark = [pytest.mark.interop, pytest.mark.integration, pytest.mark.timeout(120)]


def by_name(node: RelayNode) -> str:
    address = node.address("ws")
    assert "/wss/" in address
    return address.replace("/ip4/127.0.0.1/", "/dns4/localhost/")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Certificates:
    """Of an authority that both sides trust."""
    found = Certificates(tmp_path, "localhost")
    monkeypatch.setenv("SSL_CERT_FILE", str(found.trusted))
    monkeypatch.setenv("NODE_EXTRA_CA_CERTS", str(found.trusted))
    return found


@pytest.mark.parametrize("dialler", ["ours", "js"])
def test_messages_both_ways(
    dialler: str, files: Certificates, make_js_peer: MakeJsPeer, make_our_peer: MakeOurPeer
) -> None:
    ours = make_our_peer(options=files.options)
    js = make_js_peer(transports=["ws"], muxers=["mplex"], certificates=files)
    js.subscribe(CONTENT_TOPIC)
    if dialler == "ours":
        with pytest.raises(CommandError, match="certificate is not accepted: IP address mismatch"):
            ours.dial(js.address("ws"))
        assert ours.dial(by_name(js)) == js.peer_id
    else:
        assert js.dial(by_name(ours)) == ours.peer_id
    until_meshed(ours, js)
    send_and_check(ours, js, b"by secure WebSocket")
    send_and_check(js, ours, bytes(range(256)) * 400)
