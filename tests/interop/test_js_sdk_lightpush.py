"""Lightpush of js-waku's SDK, v3 and legacy: what is published, what is refused, and with which code."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from ipc_schema.message import WakuMessage, message_hash
from tests.interop.conftest import MakeLightNode
from tests.interop.sdk.light_node import LightNode
from tests.interop.sdk.network import TOPIC, Served, ServiceKernel, served
from tests.support.kernel_process import short_directory

pytestmark = [pytest.mark.interop, pytest.mark.integration, pytest.mark.timeout(300)]

CONTENT = "/interop/1/push/proto"
REJECTED = ("Remote peer rejected",)
KIB = 1024
LARGEST = 150 * KIB
"""Of an encoded message, on a network without a preset."""


@pytest.fixture(scope="module")
def network() -> Iterator[Served]:
    with served("--rate-limit=lightpush:0/1s") as network:
        yield network


@pytest.fixture(scope="module")
def js(network: Served, sdk_packages: None) -> Iterator[LightNode]:
    with LightNode() as node:
        node.join(network.service.ws_address)
        yield node


@pytest.mark.parametrize("legacy", [False, True], ids=["v3", "legacy"])
@pytest.mark.parametrize("size", [1, KIB, 140 * KIB])
def test_a_message_goes_out_as_it_was_sent(network: Served, js: LightNode, size: int, legacy: bool) -> None:
    reader = network.reader()
    now = time.time_ns() // 1_000_000
    sent = js.send(CONTENT, bytes(size), timestamp_ms=now, meta=b"meta", ephemeral=True, legacy=legacy)
    assert (sent.peers, sent.errors) == ((network.service.peer_id,), ())
    event, payload = reader.message()
    assert (event.message_hash, payload) == (sent.hash, bytes(size))
    assert (event.content_topic, event.meta, event.ephemeral) == (CONTENT, b"meta", True)
    assert event.timestamp == now * 1_000_000
    message = WakuMessage(payload, CONTENT, timestamp=event.timestamp, meta=b"meta", ephemeral=True)
    assert sent.hash == message_hash(TOPIC, message)
    reader.close()


def test_many_one_after_another(network: Served, js: LightNode) -> None:
    reader = network.reader()
    hashes = []
    for number in range(50):
        sent = js.send(CONTENT, b"%d" % number)
        assert sent.errors == ()
        hashes.append(sent.hash)
    assert [reader.message()[0].message_hash for _ in hashes] == hashes
    reader.close()


def test_a_message_that_the_network_has_is_not_a_failure(network: Served, js: LightNode) -> None:
    """js-waku sends again what it is unsure of, and goes to other peers with what is refused."""
    now = time.time_ns() // 1_000_000
    for legacy in (False, False, True):
        assert js.send(CONTENT, b"again", timestamp_ms=now, legacy=legacy).errors == ()


@pytest.mark.parametrize("size", [LARGEST, 600 * KIB])
def test_too_large_is_420(js: LightNode, size: int) -> None:
    """js-waku itself sends up to 1 MiB."""
    assert js.send(CONTENT, bytes(size)).errors == REJECTED
    js.wait_log("v3 status code 420: Message size exceeded maximum of 153600 bytes")
    assert js.send(CONTENT, bytes(size), legacy=True).errors == REJECTED
    js.wait_log("Message size exceeded maximum of 153600 bytes")


def test_no_relay_peer_is_505_and_too_many_requests_are_429(make_light_node: MakeLightNode) -> None:
    js: LightNode = make_light_node()
    options = ["--shard=0", "--websocket-port=0", "--rate-limit=lightpush:5/1h"]
    with short_directory() as directory, ServiceKernel(directory / "k", *options) as alone:
        js.join(alone.ws_address)
        for _ in range(5):
            assert js.send(CONTENT, b"x").errors == REJECTED
            js.wait_log("v3 status code 505: No peers for topic, skipping publish")
        assert js.send(CONTENT, b"x").errors == REJECTED
        js.wait_log("v3 status code 429: Request rejected due to too many requests")
