"""Nodes in this process that a kernel may meet. They answer, honestly or not, and never dial.

A stranger has a libp2p host that speaks metadata and takes relay streams, discv5, and peer exchange; what it
tells by the last two is up to the test.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Final

import trio

from kernel_proc.discovery.discv5.endpoint import NodeContact
from kernel_proc.discovery.discv5.params import Params
from kernel_proc.discovery.discv5.service import Discv5Service
from kernel_proc.discovery.discv5.table import log_distance
from kernel_proc.discovery.enr import Enr, sign_record
from kernel_proc.discovery.enr_identity import Identity
from kernel_proc.discovery.enr_local import LocalEnr
from kernel_proc.discovery.enr_values import Capability, RelayShards, encode_shards
from kernel_proc.metrics import Registry
from kernel_proc.p2p.api import Stream
from kernel_proc.p2p.host import Libp2pHost
from kernel_proc.p2p.keys import NodeKey
from kernel_proc.protocols.metadata import MetadataProtocol
from kernel_proc.protocols.peer_exchange import PeerExchangeService
from kernel_proc.relay.params import RELAY_PROTOCOL

HOST: Final = "127.0.0.1"
ALL: Final = Capability.RELAY | Capability.STORE | Capability.FILTER | Capability.LIGHTPUSH


def bogus_record(
    random: Random, cluster: int, tcp: int, udp: int, capabilities: Capability = ALL, ip: str = HOST
) -> Enr:
    """A good record of a node that is not there: at these ports is another node, or none."""
    key, shards = encode_shards(RelayShards.of(cluster, range(8)))
    pairs = {
        b"ip": bytes(map(int, ip.split("."))),
        b"tcp": tcp.to_bytes(2, "big"),
        b"udp": udp.to_bytes(2, "big"),
        b"waku2": bytes([capabilities]),
        key: shards,
    }
    return sign_record(Identity(random.randbytes(32)), random.randrange(1, 2**32), pairs)


class Bogus:
    """As many records of nodes that are not there as anybody wants; each is given away once."""

    def __init__(self, cluster: int, ports: Sequence[int], seed: int = 1) -> None:
        self._random = Random(seed)
        self._cluster = cluster
        self._ports = tuple(ports)
        self.given = 0

    def one(self) -> Enr:
        """Another one; nothing but the shards and services that everybody likes."""
        self.given += 1
        tcp, udp = self._random.choice(self._ports), self._random.choice(self._ports)
        return bogus_record(self._random, self._cluster, tcp, udp)

    def at(self, node_id: bytes, distances: Iterable[int], count: int) -> list[Enr]:
        """At most `count`, at these distances from a node: what a FINDNODE may be answered with."""
        found: list[Enr] = []
        wanted = set(distances)
        for _ in range(4 * count):
            record = self.one()
            if log_distance(record.node_id, node_id) in wanted:
                found.append(record)
                if len(found) == count:
                    break
            else:
                self.given -= 1
        return found


class Stranger:
    """Made by `strangers`. `exchanged` is what it gives by peer exchange."""

    def __init__(self, cluster: int, shard: int, bootstrap: Iterable[Enr] = ()) -> None:
        self.key = NodeKey.generate()
        self.host = Libp2pHost(key=self.key, listen=[f"/ip4/{HOST}/tcp/0"])
        self._metadata = MetadataProtocol(self.host, cluster=cluster, shards=lambda: (shard,))
        self._local = LocalEnr(Identity(self.key.secret_bytes()), now_ms=1000)
        self._local.set_capabilities(Capability.RELAY)
        self._local.set_shards(cluster, (shard,))
        self.discv5 = Discv5Service(
            self._local,
            listen=[(HOST, 0)],
            bootstrap=bootstrap,
            params=Params(exempt_loopback=True),
        )
        self.exchanged: Callable[[], Sequence[bytes]] = tuple
        self._exchange = PeerExchangeService(self.host, lambda: self.exchanged(), Registry(""))
        self._exchange.requests.mount()
        self.host.set_stream_handler(RELAY_PROTOCOL, _listen)

    @property
    def record(self) -> Enr:
        return self._local.record

    @property
    def address(self) -> str:
        return self.host.listen_addresses[0]

    @property
    def peer_id(self) -> str:
        return self.host.peer_id

    def lie(self, bogus: Bogus) -> None:
        """From now on report only nodes that do not exist by discv5."""
        engine, own = self.discv5._engine, self.record.node_id
        assert engine is not None

        def shareable(_contact: NodeContact, distances: Sequence[int]) -> list[Enr]:
            return bogus.at(own, (at for at in distances if at), 16)

        engine.shareable = shareable  # type: ignore[method-assign, assignment]

    async def run(self, nursery: trio.Nursery) -> None:
        """Bind; the rest runs in the nursery."""
        await nursery.start(self.host.serve)
        nursery.start_soon(self._metadata.run)
        self._local.set_addresses([self.address])
        await nursery.start(self.discv5.run)


async def _listen(stream: Stream) -> None:
    """Take what the relay says; there is nothing to say to it."""
    while await stream.read():
        pass


@asynccontextmanager
async def strangers(count: int, cluster: int, shard: int = 0) -> AsyncIterator[list[Stranger]]:
    """So many of them, none of which knows another."""
    made = [Stranger(cluster, shard) for _ in range(count)]
    async with trio.open_nursery() as nursery:
        for one in made:
            await one.run(nursery)
        yield made
        nursery.cancel_scope.cancel()
