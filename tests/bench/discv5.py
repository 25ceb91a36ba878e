"""The bench `discv5`: what packets, handshakes and round trips cost."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final

import trio

from kernel_proc.discovery.discv5.channel import Channel
from kernel_proc.discovery.discv5.endpoint import NodeContact, UdpEndpoint
from kernel_proc.discovery.discv5.messages import Ping, encode
from kernel_proc.discovery.discv5.params import Params
from kernel_proc.discovery.discv5.service import Discv5Service
from kernel_proc.discovery.enr import Enr, sign_record
from kernel_proc.discovery.enr_identity import Identity
from kernel_proc.discovery.enr_local import LocalEnr
from tests.bench.enr import compare, reference, timed
from tests.bench.harness import BenchError, Options

PACKAGE: Final = "@chainsafe/discv5"
PARAMS: Final = Params(protocol_id=b"discv5", exempt_loopback=True, handshakes_per_second=1e9)
PING: Final = encode(Ping(b"12345678", 1))


class _Party:
    """A channel that only counts what it hears."""

    def __init__(self, number: int) -> None:
        self.me = Identity(bytes([number]) * 32)
        self.endpoint = UdpEndpoint("127.0.0.1", 19000 + number)
        self.record = sign_record(
            self.me, 1, {b"ip": self.endpoint.packed, b"udp": self.endpoint.port.to_bytes(2, "big")}
        )
        self.contact = NodeContact(self.me.node_id, self.endpoint)
        self.heard = 0
        self.now = 0.0
        self.channel = Channel(self.me, lambda: self.record, self, PARAMS, random.SystemRandom())

    def known_record(self, node_id: bytes) -> Enr | None:
        return None

    def message(self, contact: NodeContact, record: Enr, plaintext: bytes, now: float) -> None:
        self.heard += 1

    def send(self) -> bytes:
        (_, datagram), *rest = self.channel.outbox
        if rest:
            raise BenchError("more was sent than asked for")
        self.channel.outbox.clear()
        return datagram


def _handshake(a: _Party, b: _Party) -> None:
    """a knocks, b asks who it is, a proves it, b reads the message."""
    heard, request = b.heard, a.channel.request(b.contact, b.record, PING)
    b.now += 1.0  # a second later: how many handshakes are taken at once has a bound
    b.channel.receive(a.send(), a.endpoint, b.now)
    a.channel.receive(b.send(), b.endpoint, b.now)
    b.channel.receive(a.send(), a.endpoint, b.now)
    a.channel.finish(request, answered=False)  # so that the next one starts afresh
    if b.heard == heard:
        raise BenchError("the handshake failed")


def _session() -> tuple[_Party, _Party]:
    """Two parties whose keys both have proven."""
    a, b = _Party(1), _Party(2)
    request = a.channel.request(b.contact, b.record, PING)
    while not a.heard:
        for one, other in ((a, b), (b, a)):
            if one.channel.outbox:
                other.channel.receive(one.send(), one.endpoint, 0.0)
        if b.heard and not a.heard and not b.channel.outbox:
            b.channel.respond(a.contact, PING)
    a.channel.finish(request, answered=True)
    return a, b


def _packets() -> Iterator[tuple[str, str, Callable[[], object], int]]:
    one, other = _Party(1), _Party(2)
    yield "handshake, both sides", "handshake", lambda: _handshake(one, other), 300
    a, b = _session()

    def send() -> bytes:
        b.channel.respond(a.contact, PING)
        return b.send()

    datagram = send()
    yield "send a PING", "encrypt", send, 5000
    yield "receive a PING", "decrypt", lambda: a.channel.receive(datagram, b.endpoint, 0.0), 5000
    if a.channel.outbox:
        raise BenchError("packets could not be read")


def _round_trips(count: int) -> float:
    """µs of a PING and its PONG over UDP, one after the other, both nodes in one process."""

    async def main() -> float:
        params = replace(PARAMS, walk_pause=1e6, check_interval=1e6)
        services = []
        for number in (3, 4):
            local = LocalEnr(Identity(bytes([number]) * 32), now_ms=1)
            local.set_addresses(["/ip4/127.0.0.1/tcp/60000"])
            services.append(Discv5Service(local, listen=[("127.0.0.1", 0)], params=params))
        async with trio.open_nursery() as nursery:
            for service in services:
                await nursery.start(service.run)
            one, target = services[0], services[1].local.record
            await one.ping(target)
            start = time.perf_counter_ns()
            for _ in range(count):
                await one.ping(target)
            taken = (time.perf_counter_ns() - start) / 1000 / count
            nursery.cancel_scope.cancel()
        return taken

    return trio.run(main)


def discv5(options: Options) -> Iterator[dict[str, Any]]:
    """µs for each packet, handshake, round trip."""
    with reference() as child:
        for name, command, work, count in _packets():
            if options.wants(name):
                yield compare("discv5", PACKAGE, name, child, command, timed(work), count, options)
        if options.wants("PING over UDP"):
            yield compare("discv5", PACKAGE, "PING over UDP", child, "ping", _round_trips, 1000, options)
