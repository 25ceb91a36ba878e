"""Peer exchange with js-waku's SDK: it asks the one node that it knows, and comes to another one by that."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.interop.conftest import MakeLightNode
from tests.interop.sdk.light_node import LightNode
from tests.interop.sdk.network import ServiceKernel
from tests.support.kernel_process import eventually, short_directory

pytestmark = [pytest.mark.interop, pytest.mark.integration, pytest.mark.timeout(300)]

CONTENT = "/interop/1/exchange/proto"
COMMON = ("--shard=0", "--websocket-port=0", "--discv5-discovery", "--discv5-udp-port=0")


class Pair(NamedTuple):
    """`door` has found `hidden` by discv5, and so has its record to give away. Only `hidden` is a store."""

    door: ServiceKernel
    hidden: ServiceKernel


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with short_directory() as directory, ServiceKernel(directory / "h", *COMMON, "--store=true") as hidden:
        record = hidden.info("MyENR")["MyENR"]
        with ServiceKernel(directory / "d", *COMMON, f"--discv5-bootstrap-node={record}") as door:
            dealer = door.dealer()

            def found() -> bool:
                return any(peer["peer_id"] == hidden.peer_id for peer in dealer.ok("peers.list")["peers"])

            eventually(found, 30)
            yield Pair(door, hidden)


def test_records_are_given_to_who_asks(pair: Pair, make_light_node: MakeLightNode) -> None:
    js: LightNode = make_light_node()
    js.dial(pair.door.ws_address)
    js.wait_for_peers(["filter", "lightpush"])
    records = {record.peer_id: record for record in js.exchange(pair.door.peer_id, 60)}
    assert set(records) == {pair.hidden.peer_id, pair.door.peer_id}  # what the door found, and its own
    for record in records.values():
        assert (record.cluster, record.shards) == (42, (0,))
    record = records[pair.hidden.peer_id]
    assert {pair.hidden.ws_address, pair.hidden.tcp_address} <= set(record.addresses)
    assert js.exchange(pair.door.peer_id, 0) == []
    assert js.pending("log") == []


def test_a_light_node_finds_a_store_by_it(pair: Pair, make_light_node: MakeLightNode) -> None:
    js: LightNode = make_light_node(peer_exchange=True)
    js.dial(pair.door.ws_address)
    js.wait_event("connected", lambda event: bool(event["peerId"] == pair.hidden.peer_id))
    js.wait_for_peers(["store"])
    assert set(js.peers()) == {pair.door.peer_id, pair.hidden.peer_id}
    eventually(lambda: js.send(CONTENT, b"x", timestamp_ms=time.time_ns() // 1_000_000).peers)
    eventually(lambda: js.query(CONTENT))
