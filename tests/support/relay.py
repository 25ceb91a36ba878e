"""A relay node over real libp2p for tests: host, router, and what it received; waiting without sleeping."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random

import trio

from ipc_schema.message import WakuMessage, encode_message
from kernel_proc.p2p.host import Libp2pHost
from kernel_proc.p2p.keys import NodeKey
from kernel_proc.p2p.limits import HostLimits
from kernel_proc.relay.messages import RelayMessage
from kernel_proc.relay.params import AGENT_PREFIX, RelayParams
from kernel_proc.relay.service import RelayService

TOPIC = "/waku/2/rs/42/0"
CONTENT_TOPIC = "/test/1/relay/proto"
LOOPBACK = "/ip4/127.0.0.1/tcp/0"
LIMITS = HostLimits(max_per_ip=0, max_half_open_per_ip=0)


def waku(payload: bytes, timestamp: int = 1) -> bytes:
    """An encoded WakuMessage."""
    return encode_message(WakuMessage(payload, CONTENT_TOPIC, timestamp=timestamp))


class RelayNode:
    """One node of a test."""

    def __init__(self, host: Libp2pHost, params: RelayParams | None) -> None:
        self.host = host
        self.received: list[RelayMessage] = []
        self._changed = trio.Event()
        self.relay = RelayService(
            host, params, on_message=self._on_message, on_change=self._on_change, rng=Random(7)
        )

    def _on_message(self, message: RelayMessage) -> None:
        self.received.append(message)
        self._changed.set()

    def _on_change(self, _topics: frozenset[str]) -> None:
        self._changed.set()

    @property
    def address(self) -> str:
        return self.host.listen_addresses[0]

    @property
    def peer_id(self) -> str:
        return self.host.peer_id

    @property
    def payloads(self) -> list[bytes]:
        return [message.message.payload for message in self.received]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition on what this node received or on its mesh (the test's deadline bounds it)."""
        while not condition():
            self._changed = trio.Event()
            with trio.move_on_after(0.05):  # for what has no event of its own
                await self._changed.wait()

    async def until_received(self, count: int) -> None:
        await self.until(lambda: len(self.received) >= count)

    async def until_meshed(self, *others: RelayNode, topic: str = TOPIC) -> None:
        await self.until(lambda: {o.peer_id for o in others} <= set(self.relay.mesh_peers(topic)))


@asynccontextmanager
async def relay_node(
    *topics: str,
    params: RelayParams | None = None,
    key: NodeKey | None = None,
    listen: str = LOOPBACK,
    limits: HostLimits = LIMITS,
) -> AsyncIterator[RelayNode]:
    """A running node, subscribed to `topics`."""
    host = Libp2pHost(
        key=key or NodeKey.generate(), listen=[listen], limits=limits, agent=f"{AGENT_PREFIX}test"
    )
    async with host.run(), trio.open_nursery() as nursery:
        node = RelayNode(host, params)
        await nursery.start(node.relay.run)
        for topic in topics:
            node.relay.subscribe(topic)
        try:
            yield node
        finally:
            nursery.cancel_scope.cancel()


async def connect(a: RelayNode, b: RelayNode, topic: str = TOPIC) -> None:
    """`a` dials `b`; returns when each has the other in its mesh."""
    await a.host.connect(b.address)
    await a.until_meshed(b, topic=topic)
    await b.until_meshed(a, topic=topic)
