"""One node of the mesh bench: our host and relay, publishing at a rate and noting when messages come.

    python -m tests.bench.mesh.node

Commands and events are those of `tests/bench/js/mesh_node.mjs`:

    -> ready {addresses}
    <- connect {addresses}                               -> connected
    <- mesh {peers}                                      -> meshed, once so many are in the mesh
    <- publish {round, node, rate, messages, size}       -> published {sent: [[index, ns] …]}
    <- collect {}                                        -> collected {arrivals: [[index, ns] …], duplicates}

`index` is node × 1,000,000 + number; times are CLOCK_MONOTONIC, the same for all processes of a host.
"""

from __future__ import annotations

import time
from struct import Struct
from typing import Any, Final

import trio

from kernel_proc.p2p.host import Libp2pHost
from kernel_proc.p2p.keys import NodeKey
from kernel_proc.p2p.limits import HostLimits
from kernel_proc.reactor import ReactorClock
from kernel_proc.relay.messages import RelayMessage
from kernel_proc.relay.params import RelayParams
from kernel_proc.relay.service import RelayService
from tests.bench.lines import commands, emit
from tests.bench.relay.traffic import MAX_MESSAGE, TOPIC, message_maker

__all__: list[str] = []

NODE: Final = 1_000_000
_NUMBER: Final = Struct(">Q")


class _Arrivals:
    def __init__(self) -> None:
        self.times: dict[int, int] = {}
        self.duplicates = 0

    def take(self, message: RelayMessage) -> None:
        number = _NUMBER.unpack_from(message.message.payload)[0] & 0xFFFF_FFFF
        if number in self.times:
            self.duplicates += 1
        else:
            self.times[number] = time.monotonic_ns()

    def collect(self) -> None:
        emit("collected", arrivals=list(self.times.items()), duplicates=self.duplicates)
        self.times.clear()
        self.duplicates = 0


async def _publish(relay: RelayService, command: dict[str, Any]) -> None:
    make, rate = message_maker(command["size"]), command["rate"]
    sent: list[tuple[int, int]] = []
    start = trio.current_time()
    for number in range(command["messages"]):
        # What could not be sent in time is sent at once: the load is what is offered, not what is managed.
        await trio.sleep_until(start + number / rate)
        index = command["node"] * NODE + number
        sent.append((index, time.monotonic_ns()))
        await relay.publish(TOPIC, make(command["round"] << 32 | index))
    emit("published", sent=sent)


async def _serve() -> None:
    arrivals = _Arrivals()
    host = Libp2pHost(
        key=NodeKey.generate(), listen=["/ip4/127.0.0.1/tcp/0"], limits=HostLimits(max_per_ip=0)
    )
    async with host.run(), trio.open_nursery() as nursery:
        relay = RelayService(host, RelayParams(max_rpc_size=MAX_MESSAGE), on_message=arrivals.take)
        await nursery.start(relay.run)
        relay.subscribe(TOPIC)
        emit("ready", addresses=list(host.listen_addresses))
        async for command in commands():
            match command["cmd"]:
                case "connect":
                    for address in command["addresses"]:
                        await host.connect(address)
                    emit("connected")
                case "mesh":
                    while len(relay.mesh_peers(TOPIC)) < command["peers"]:
                        await trio.sleep(0.05)
                    emit("meshed")
                case "publish":
                    await _publish(relay, command)
                case "collect":
                    arrivals.collect()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(_serve, clock=ReactorClock())  # as a kernel does
