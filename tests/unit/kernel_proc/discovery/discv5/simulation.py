"""Engines that talk to each other without sockets and clocks: the time is ours, so is the network."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from kernel_proc.discovery.discv5.endpoint import UdpEndpoint
from kernel_proc.discovery.discv5.engine import Engine, NodeCallbacks
from kernel_proc.discovery.discv5.params import Params
from kernel_proc.discovery.enr import Enr, sign_record
from kernel_proc.discovery.enr_identity import Identity
from kernel_proc.discovery.enr_local import LocalEnr
from kernel_proc.discovery.enr_values import Capability

PARAMS = Params()
_ASK = 0.25


def identity(seed: int) -> Identity:
    return Identity(random.Random(seed).randbytes(32))


def record_of(me: Identity, host: str, port: int = 9000, seq: int = 1) -> Enr:
    """A record with an IPv4 endpoint."""
    pairs = {b"ip": UdpEndpoint(host, port).packed, b"udp": port.to_bytes(2, "big")}
    return sign_record(me, seq, pairs)


def public_ip(number: int) -> str:
    """Addresses of the Internet, each in a network of its own."""
    return f"{20 + number // 250}.{number % 250}.0.1"


class SimulatedNode:
    """An engine at an endpoint. Restart it by making another one of the same number."""

    def __init__(self, network: Network, number: int, host: str, params: Params, port: int = 9000) -> None:
        self.number = number
        self.endpoint = UdpEndpoint(host, port)
        self.found: list[Enr] = []
        self.seen: list[UdpEndpoint] = []
        local = LocalEnr(identity(number), now_ms=1000 + int(network.now * 1000))
        local.set_capabilities(Capability.RELAY)
        local.set_shards(1, [0])
        local.set_addresses([f"/ip4/{host}/tcp/60000"])
        local.set_udp(udp4=port, udp6=None)
        self.local = local
        self.engine = Engine(
            local,
            params,
            random.Random(number),
            now=network.now,
            callbacks=NodeCallbacks(found=self.found.append, external=self.seen.append),
        )

    @property
    def record(self) -> Enr:
        return self.local.record

    @property
    def known(self) -> set[bytes]:
        return {node.contact.node_id for node in self.engine.table.nodes() if node.verified}


class Network:
    """Carries datagrams with a delay; `lossy` says which are lost. Time is in seconds."""

    def __init__(self, seed: int = 1, delay: float = 0.02) -> None:
        self.now = 1000.0
        self.delay = delay
        self.lossy: Callable[[UdpEndpoint, UdpEndpoint], bool] = lambda _source, _target: False
        self.random = random.Random(seed)
        self.nodes: dict[UdpEndpoint, SimulatedNode] = {}
        self.seen_as: dict[UdpEndpoint, UdpEndpoint] = {}
        """Endpoints translated on the way out, as a NAT does."""
        self.bytes = 0
        self.datagrams = 0
        self._wakeups: list[tuple[float, int]] = []
        self._flying: list[tuple[float, int, UdpEndpoint, UdpEndpoint, bytes]] = []

    def add(
        self, number: int, *, host: str | None = None, bootstrap: Iterable[Enr] = (), **params: Any
    ) -> SimulatedNode:
        """Start a node."""
        node = SimulatedNode(self, number, host or public_ip(number), replace(PARAMS, **params))
        self.nodes[node.endpoint] = node
        node.engine.set_bootstrap(bootstrap, self.now)
        return node

    def stop(self, node: SimulatedNode) -> None:
        """It is gone, without a word."""
        del self.nodes[node.endpoint]

    def send(self, source: UdpEndpoint, target: UdpEndpoint, datagram: bytes) -> None:
        """Put a datagram on its way, as anyone may."""
        self.datagrams += 1
        self.bytes += len(datagram)
        if not self.lossy(source, target):
            arrival = self.now + self.delay * self.random.uniform(0.5, 1.5)
            heapq.heappush(self._flying, (arrival, self.datagrams, source, target, datagram))

    def _touched(self, node: SimulatedNode) -> None:
        """The node was called: take what it sends and note when it wants to be called again."""
        source = self.seen_as.get(node.endpoint, node.endpoint)
        for target, datagram in node.engine.outbox:
            self.send(source, target, datagram)
        node.engine.outbox.clear()
        heapq.heappush(self._wakeups, (node.engine.wakeup(), node.number))

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Let time pass; whether `until`, asked a few times a second, came true."""
        end, ask = self.now + seconds, self.now
        by_number = {node.number: node for node in self.nodes.values()}
        self._wakeups = []
        for node in by_number.values():
            self._touched(node)
        while True:
            if self.now >= ask:
                if until():
                    return True
                ask = self.now + _ASK
            wakes, arrives = self._wakeups[0][0], self._flying[0][0] if self._flying else float("inf")
            if min(wakes, arrives) > end:
                self.now = end
                return until()
            if arrives <= wakes:
                self.now, _, source, target, datagram = heapq.heappop(self._flying)
                if (receiver := self.nodes.get(target)) is not None:
                    receiver.engine.receive(datagram, source, self.now)
                    self._touched(receiver)
                continue
            at, number = heapq.heappop(self._wakeups)
            self.now = max(self.now, at)
            node = by_number[number]
            if node.engine.wakeup() <= self.now:  # otherwise it was called meanwhile and rescheduled
                node.engine.tick(self.now)
                self._touched(node)


def network_of(count: int, **params: Any) -> tuple[Network, list[SimulatedNode]]:
    """Nodes that all know the first one only."""
    network = Network()
    first = network.add(0, **params)
    return network, [first, *(network.add(n, bootstrap=[first.record], **params) for n in range(1, count))]
