"""The kernel's side of the pipeline: its event publisher, sockets, leases and replay, without a network.

    python -m tests.bench.pipeline.kernel RUN_DIRECTORY ACK_SOCKET

Commands: publish {round, messages, size, window, rate?, topic}.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, cast

import trio

from ipc_schema.hello import NetworkInfo
from ipc_schema.kernel.events import SOURCE_RELAY
from ipc_schema.kernel.records import ProtocolState
from ipc_schema.message import WakuMessage
from ipc_schema.paths import kernel_directory, kernel_endpoints
from ipc_schema.streams import new_instance
from kernel_proc.health import HealthMonitor
from kernel_proc.ipc.consumers import Consumers
from kernel_proc.ipc.control import control_routes
from kernel_proc.ipc.events import EventPublisher
from kernel_proc.ipc.methods.node import node_routes
from kernel_proc.ipc.methods.streams import stream_routes
from kernel_proc.ipc.server import Endpoints, IpcServer, IpcSettings
from kernel_proc.lag import EventLoopLag
from kernel_proc.metrics import Registry
from kernel_proc.relay.service import RelayService
from kernel_proc.shards import Shards
from logos_process.directories import private_directory
from tests.bench.lines import commands, cpu_us, emit
from tests.bench.pipeline.wire import MAX_TOPIC, Acks, hash_maker, payload_maker

CLUSTER: Final = 42
SHARD: Final = 0
MAX_MESSAGE: Final = 153_600
REPLAY_BYTES: Final = 8 << 20
IN_FLIGHT: Final = 256
TURN_MESSAGES: Final = 64
"""Between two checkpoints, as a reader of the relay would deliver them."""


class _Alone:
    """The relay of a node whose one mesh peer never goes away: what the shards ask of it."""

    def subscribe(self, topic: str) -> bool:
        return True

    def unsubscribe(self, topic: str) -> bool:
        return True

    def mesh_peers(self, topic: str) -> Sequence[str]:
        return ["bench"]

    topic_peers = mesh_peers


class _Source:
    """Publishes rounds, at most a window ahead of the app."""

    def __init__(self, publisher: EventPublisher) -> None:
        self._publisher = publisher
        self._acks: dict[str, Acks] = {}
        self._hash = hash_maker()

    async def listen(self, path: str) -> None:
        """Take the connection of each app, which names its content topic first."""
        listener = trio.socket.socket(trio.socket.AF_UNIX)
        await listener.bind(path)
        listener.listen()
        while True:
            connection, _ = await listener.accept()
            topic = (await connection.recv(MAX_TOPIC)).decode()
            self._acks[topic] = Acks(socket.socket(fileno=connection.detach()))

    def _send(self, number: int, payload: bytes, topic: str) -> None:
        message = WakuMessage(payload, topic, timestamp=time.time_ns())
        self._publisher.publish_message(SHARD, message, self._hash(number), SOURCE_RELAY)

    async def publish(self, command: dict[str, Any]) -> None:
        number, messages, window = command["round"], command["messages"], command["window"]
        topic, rate = command["topic"], command.get("rate")
        make, acks = payload_maker(command["size"]), self._acks[topic]
        acks.begin()
        cpu, start = cpu_us(), time.monotonic_ns()
        due = trio.current_time()
        for index in range(messages):
            if rate:
                due += 1 / rate
                await trio.sleep_until(due)
            while index - acks.count >= window and not acks.look():
                await trio.lowlevel.wait_readable(acks.descriptor)
            if index % TURN_MESSAGES == TURN_MESSAGES - 1:
                await trio.lowlevel.checkpoint()
            full = number << 32 | index
            self._send(full, make(full), topic)
        while acks.count < messages:
            if not acks.look():
                await trio.lowlevel.wait_readable(acks.descriptor)
        emit("published", start_ns=start, cpu_us=cpu_us() - cpu)


def _server(
    registry: Registry, publisher: EventPublisher, shards: Shards, health: HealthMonitor
) -> IpcServer:
    network = NetworkInfo(
        cluster=CLUSTER, shard_count=1, max_message_size=MAX_MESSAGE, preset="", rln_required=False
    )
    consumers = Consumers(lambda: f"anonymous-{secrets.token_hex(6)}", shards.holds_lease)
    server: IpcServer
    routes = {
        **stream_routes(
            shards=shards,
            publisher=publisher,
            consumers=consumers,
            network=network,
            server="logos-kernel/bench",
            in_flight=IN_FLIGHT,
            replay_bytes=REPLAY_BYTES,
            events_endpoint=lambda: server.endpoints.events,
        ),
        **node_routes(health=health, registry=registry, info={"MyPeerId": lambda: "bench"}, options=list),
    }
    control = control_routes(
        health=health,
        version="bench",
        started=trio.current_time(),
        shutdown=lambda _: None,
        sockets=list,
        metrics=registry.report,
    )
    server = IpcServer(publisher, consumers, routes, control, registry, IpcSettings(MAX_MESSAGE, IN_FLIGHT))
    return server


async def main(run_directory: Path, ack_path: str) -> None:
    registry = Registry()
    publisher = EventPublisher(
        instance=new_instance(os.urandom),
        cluster=CLUSTER,
        shard_count=1,
        replay_bytes=REPLAY_BYTES,
        registry=registry,
    )
    shards = Shards(publisher, cluster=CLUSTER, shard_count=1, lease_ttl=60.0, static=(), registry=registry)
    shards.start(cast("RelayService", _Alone()))
    lag = EventLoopLag()
    health = HealthMonitor(lag, lambda: (), shards.health, publisher.publish_health)
    server = _server(registry, publisher, shards, health)
    private_directory(kernel_directory(run_directory), None)
    server.bind(Endpoints(*kernel_endpoints(run_directory)))
    source = _Source(publisher)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lag.run, health.touch)
            nursery.start_soon(health.run)
            nursery.start_soon(shards.run)
            nursery.start_soon(server.serve_control)
            nursery.start_soon(server.serve)
            health.set_state(ProtocolState.READY)
            nursery.start_soon(source.listen, ack_path)
            emit("ready")
            async for command in commands():
                await source.publish(command)
            nursery.cancel_scope.cancel()
    finally:
        server.close()


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), sys.argv[2])
