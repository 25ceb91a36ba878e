"""Peers that lie in the peer exchange of their PRUNEs: a node learns nothing and dials none of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from ipc_schema.config.kernel import load_kernel_config
from kernel_proc.network import Network
from kernel_proc.node import Node
from kernel_proc.p2p import peer_ids
from kernel_proc.p2p.keys import NodeKey
from kernel_proc.p2p.peer_record import MAX_ENVELOPE, seal
from kernel_proc.peers.known import PeerOrigin
from kernel_proc.protocols.metadata import MetadataProtocol
from kernel_proc.relay.rpc import PeerInfo, Prune
from tests.support.aio import trio_test
from tests.support.kernel_process import short_directory
from tests.support.raw_relay import RawPeer, raw_peer
from tests.support.relay import TOPIC

pytestmark = pytest.mark.integration

CLUSTER = 42


@pytest.fixture
def directory() -> Iterator[Path]:
    with short_directory() as path:
        yield path


@dataclass
class Running:
    """A node in this process, and what a raw peer needs of it."""

    node: Node
    network: Network
    offered: int = 0

    @property
    def address(self) -> str:
        return self.network.host.listen_addresses[0]

    @property
    def peer_id(self) -> str:
        return self.network.host.peer_id

    def outcomes(self) -> dict[str, float]:
        """What became of all named peers; those of which there are none left out."""
        return {
            labels["outcome"]: value
            for name, labels, value in self.node.registry.collect()
            if name.endswith("relay_px_peers") and value
        }

    def learned(self) -> set[str]:
        """The peers it knows by PRUNEs."""
        return {peer.peer_id for peer in self.network.peering.store if peer.origin == PeerOrigin.PRUNE}

    async def until_offered(self, more: int) -> None:
        """Wait until so many more peers have been named to it."""
        expected = self.offered + more
        while self.relay("px_offered") < expected:
            await trio.sleep(0.005)
        self.offered = expected

    def relay(self, name: str) -> int:
        relay = self.network.relay
        assert relay is not None
        return relay.counters()[name]


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[Running]:
    flags = {
        "data-dir": str(directory / "k"),
        "tcp-port": 0,
        "listen-address": "127.0.0.1",
        "cluster-id": CLUSTER,
        "shard": [0],
        "relay-peer-exchange": True,
        "ip-colocation-limit": 0,
    }
    node = Node(load_kernel_config(flags=flags))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.run)
        while not node.health.ready:
            await trio.sleep(0.005)
        assert node._network is not None
        yield Running(node, node._network)
        node.stop("test")


@asynccontextmanager
async def meshed_peer(target: Running, key: NodeKey | None = None) -> AsyncIterator[RawPeer]:
    """A raw peer of the right network in the node's mesh."""
    async with raw_peer(key) as peer, trio.open_nursery() as nursery:
        metadata = MetadataProtocol(peer.host, cluster=CLUSTER, shards=lambda: (0,))
        nursery.start_soon(metadata.run)
        await peer.open(target)
        await peer.until(lambda: TOPIC in peer.control("graft"))
        yield peer
        nursery.cancel_scope.cancel()


@dataclass
class Victim:
    """An address that a peer wants us to dial."""

    address: str
    called: int = 0


@asynccontextmanager
async def listening() -> AsyncIterator[Victim]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    victim = Victim(f"/ip4/127.0.0.1/tcp/{listener.socket.getsockname()[1]}")

    async def answer(stream: trio.SocketStream) -> None:
        victim.called += 1
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, answer, [listener])
        yield victim
        nursery.cancel_scope.cancel()


def lies(victim: str) -> dict[str, PeerInfo]:
    """A way to lie each, with the outcome it should have."""
    key, other = NodeKey.generate(), NodeKey.generate()
    name = peer_ids.to_bytes(key.peer_id)
    good = seal(key, [victim], 1).envelope
    return {
        "forged": PeerInfo(name, good[:-1] + bytes([good[-1] ^ 1])),
        "other_peer": PeerInfo(name, seal(other, [victim], 1).envelope),
        "oversized": PeerInfo(name, good + bytes(MAX_ENVELOPE)),
        "unsigned": PeerInfo(name, b""),
        "malformed": PeerInfo(name, b"\x0a\x01"),
        "useless": PeerInfo(name, seal(key, ["/ip4/0.0.0.0/tcp/1", "/ip4/224.0.0.1/tcp/1"], 1).envelope),
    }


@trio_test(deadline=60)
async def test_lies_are_counted_and_not_dialled_and_truth_is_still_heard(directory: Path) -> None:
    async with running(directory) as target, listening() as victim:
        false = lies(victim.address)
        for _ in range(5):
            async with meshed_peer(target) as liar:
                await liar.send_control(prune=[Prune(TOPIC, 60, tuple(false.values()))])
                await target.until_offered(len(false))
        assert target.outcomes() == dict.fromkeys(false, 5)
        assert target.learned() == set()
        # A peer that tells the truth afterwards is heard: the node dials the peer that it names.
        async with meshed_peer(target) as honest, raw_peer() as third:
            record = third.host.own_record()
            assert record is not None
            info = PeerInfo(peer_ids.to_bytes(third.host.peer_id), record.envelope)
            await honest.send_control(prune=[Prune(TOPIC, 60, (info,))])
            await honest.until(lambda: third.host.is_connected(target.peer_id))
            assert target.learned() == {third.host.peer_id}
        assert target.outcomes()["taken"] == 1
        assert victim.called == 0


@trio_test(deadline=60)
async def test_thousands_of_offers_are_bounded_by_the_mesh_and_by_the_allowance(directory: Path) -> None:
    async with running(directory) as target:
        keys = [NodeKey.generate() for _ in range(16)]
        # One closed port for all: no dial to it succeeds.
        named = tuple(
            PeerInfo(peer_ids.to_bytes(key.peer_id), seal(key, ["/ip4/127.0.0.1/tcp/9"], 1).envelope)
            for key in keys
        )
        async with meshed_peer(target) as liar:
            # Once for each time it had a place in our mesh; the GRAFTs in between are inside the back-off.
            for _ in range(200):
                await liar.send_control(prune=[Prune(TOPIC, 0, named)] * 8, graft=[TOPIC])
            await target.until_offered(200 * 8 * 16)
            assert target.outcomes()["taken"] == 16
            assert target.relay("px_ignored") == target.relay("px_offered") - 16
        assert sum(target.outcomes().values()) == 16
        assert target.learned() <= {key.peer_id for key in keys}
