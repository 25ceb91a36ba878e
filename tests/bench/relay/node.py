"""One process of the relay bench: our relay on our host, as publisher or as receiver.

    python -m tests.bench.relay.node --role receiver|publisher [--transport wss --tls-cert PEM --tls-key PEM]

The commands and events are those of `tests/bench/js/relay_node.mjs`: all sides of the comparison are driven
by the same code and send the same bytes. Host, relay, scoring and validation stand as the kernel composes
them: each message is decoded as a WakuMessage, and a protected shard (another one) has its validator asked.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

from kernel_proc.p2p.host import Libp2pHost
from kernel_proc.p2p.keys import NodeKey
from kernel_proc.p2p.limits import HostLimits
from kernel_proc.p2p.tls import ServerCertificate
from kernel_proc.reactor import ReactorClock
from kernel_proc.relay.params import RelayParams
from kernel_proc.relay.service import RelayService
from kernel_proc.relay.validation import SignedShard
from logos_process.garbage import collect_less
from tests.bench.lines import commands, emit
from tests.bench.relay.traffic import MAX_MESSAGE, TOPIC, Publisher, Receiver

PROTECTED_TOPIC: Final = "/waku/2/rs/42/1"
# Hundreds of peers of one address connect to us; the limits of a real node are not the subject.
LIMITS: Final = HostLimits(max_connections=2000, max_inbound=2000, max_per_ip=0, max_half_open_per_ip=0)


class _Node:
    def __init__(self, host: Libp2pHost, nursery: trio.Nursery) -> None:
        self.receiver = Receiver()
        self._host = host
        self._nursery = nursery
        self._changed = trio.Event()
        self.relay = RelayService(
            host,
            RelayParams(max_rpc_size=MAX_MESSAGE),
            on_message=self.receiver.take,
            on_change=self._on_change,
        )
        self.relay.add_validator(
            SignedShard(PROTECTED_TOPIC, NodeKey.generate().public_key_bytes, time.time_ns)
        )
        self._publisher = Publisher(self.relay)

    def _on_change(self, _topics: frozenset[str]) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def handle(self, command: dict[str, Any]) -> None:
        match command["cmd"]:
            case "connect":
                peer = await self._host.connect(command["address"])
                await self._read_acks(command["ackPort"])
                while peer not in self.relay.mesh_peers(TOPIC):
                    await self._changed.wait()
                emit("connected")
            case "attend":
                if command["ackPort"]:
                    await self._read_acks(command["ackPort"])
                self._publisher.peers = command["peers"]
                while len(self.relay.topic_peers(TOPIC)) < command["peers"]:
                    await self._changed.wait()
                emit("attended", peers=command["peers"])
            case "expect":
                self.receiver.expect(command)
            case "publish":
                await self._publisher.publish(command)
            case "pace":
                await self._publisher.pace(command)

    async def _read_acks(self, port: int) -> None:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        stream.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NODELAY, 1)
        self._nursery.start_soon(self._publisher.read_acks, stream)


async def _serve(role: str, transport: str, certificate: ServerCertificate | None) -> None:
    listen = "/ip4/127.0.0.1/tcp/0" + (f"/{transport}" if transport != "tcp" else "")
    host = Libp2pHost(key=NodeKey.generate(), listen=[listen], limits=LIMITS, certificate=certificate)
    async with host.run(), trio.open_nursery() as nursery:
        node = _Node(host, nursery)
        await nursery.start(node.relay.run)
        node.relay.subscribe(TOPIC)
        ack_port = 0
        if role == "receiver":
            listeners = await nursery.start(
                partial(trio.serve_tcp, node.receiver.acknowledge, 0, host="127.0.0.1")
            )
            ack_port = listeners[0].socket.getsockname()[1]
        emit("ready", role=role, peerId=host.peer_id, addresses=list(host.listen_addresses), ackPort=ack_port)
        async for command in commands():
            if command["cmd"] == "stop":
                break
            await node.handle(command)
        nursery.cancel_scope.cancel()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--role", choices=("receiver", "publisher"), required=True)
    parser.add_argument("--transport", choices=("tcp", "ws", "wss"), default="tcp")
    parser.add_argument("--tls-cert", type=Path)
    parser.add_argument("--tls-key", type=Path)
    given = parser.parse_args()
    certificate = ServerCertificate(given.tls_cert, given.tls_key) if given.transport == "wss" else None
    # As a kernel does.
    collect_less()
    trio.run(_serve, given.role, given.transport, certificate, clock=ReactorClock())


if __name__ == "__main__":
    main()
