"""A small network of kernels for light nodes: one that serves them, and one that it relays to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Self

from ipc_schema.kernel.events import stream_topic
from ipc_schema.message import WakuMessage, message_hash
from tests.support.kernel_process import KernelProcess, Subscriber, eventually, short_directory

CLUSTER = 42
TOPIC = "/waku/2/rs/42/0"
"""The only shard, where a network has one."""
METRICS = "logos_delivery_"


class ServiceKernel(KernelProcess):
    """A kernel on WebSocket with all services, that light nodes can come to."""

    def __init__(self, directory: Path, *options: str) -> None:
        super().__init__(
            directory,
            "--websocket-support=true",
            f"--cluster-id={CLUSTER}",
            "--ip-colocation-limit=0",
            *options,
        )

    def start(self) -> Self:
        super().start()
        found = self.info("MyPeerId", "MyMultiaddresses")
        self.peer_id = str(found["MyPeerId"])
        self.ws_address = next(str(address) for address in found["MyMultiaddresses"] if "/ws" in address)
        self.tcp_address = next(str(address) for address in found["MyMultiaddresses"] if "/ws" not in address)
        return self

    def metric(self, name: str, **labels: str) -> float:
        """One sample of its metrics."""
        dealer = self.dealer()
        samples = dealer.ok("node.metrics")["metrics"]
        dealer.close()
        return next(float(value) for found, its, value in samples if (found, its) == (METRICS + name, labels))


class Served:
    """`service` is for light nodes; what they push comes out at `far`, what `far` publishes reaches them."""

    def __init__(self, service: ServiceKernel, far: KernelProcess) -> None:
        self.service = service
        self.far = far
        self._dealer = far.dealer("publisher")

    def publish(
        self,
        content_topic: str,
        payload: bytes,
        timestamp: int,
        *,
        meta: bytes = b"",
        ephemeral: bool = False,
    ) -> bytes:
        """Relay a message from the far kernel; its hash. `timestamp` in ns."""
        body = {"content_topic": content_topic, "timestamp": timestamp, "meta": meta, "ephemeral": ephemeral}
        done = self._dealer.ok("relay.publish", body, payload)
        message = WakuMessage(payload, content_topic, timestamp=timestamp, meta=meta)
        digest: bytes = done["message_hash"]
        assert digest == message_hash(TOPIC, message)
        return digest

    def reader(self) -> Subscriber:
        """Events of the far kernel, from now on."""
        reader = self.far.subscriber(stream_topic(CLUSTER, 0))
        reader.heartbeat()
        return reader

    def stored(self, hashes: list[bytes]) -> None:
        """Wait until the service kernel's archive has all of them."""
        dealer = self.service.dealer()
        body = {"hashes": hashes, "limit": 100, "max_messages": 2000, "peer": self.service.peer_id}
        eventually(lambda: len(dealer.ok("store.query", body)["hashes"]) == len(hashes))
        dealer.close()


@contextmanager
def served(*options: str) -> Iterator[Served]:
    """One shard; `options` are the service kernel's."""
    with (
        short_directory() as directory,
        ServiceKernel(directory / "s", "--websocket-port=0", "--shard=0", *options) as service,
        KernelProcess(
            directory / "f",
            f"--cluster-id={CLUSTER}",
            "--shard=0",
            "--ip-colocation-limit=0",
            f"--staticnode={service.tcp_address}",
        ) as far,
    ):
        for kernel in (service, far):
            eventually(partial(_mesh, kernel))
        yield Served(service, far)


def _mesh(kernel: KernelProcess) -> object:
    dealer = kernel.dealer()
    found = dealer.ok("relay.mesh")["topics"].get(TOPIC)
    dealer.close()
    return found
