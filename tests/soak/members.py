"""The nodes of the network: kernels that relay, and edge nodes with a Messaging API and an app.

A member is asked and heard over its sockets only. To start or end its kernel blocks: that is for a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from logos_client import MessageError, MessagePropagated, MessageReceived, MessagingClient
from logos_client.exceptions import LogosError
from logos_client.kernel import KernelClient
from logos_client.kernel_events import KernelMessage
from tests.soak.deliveries import Deliveries
from tests.soak.watched import Watched
from tests.support.kernel_process import KernelProcess
from tests.support.mapi_process import MapiProcess

TOPIC: Final = "/soak/1/network/proto"
PAYLOAD: Final = 512
START_SECONDS: Final = 30.0
COMMON: Final = ("--cluster-id=45", "--log-level=WARN", "--replay-budget=2MiB")
SERVER: Final = (
    *COMMON,
    "--shard=0",
    "--discv5-discovery",
    "--discv5-udp-port=0",
    "--ip-colocation-limit=0",
    "--rate-limit=lightpush:0/1s",
)
"""All on one address: limits by address are off, and so is the one that is made for strangers' apps."""

Clock = Callable[[], float]


def _payload(number: int) -> bytes:
    return number.to_bytes(8, "big").ljust(PAYLOAD, b".")


def _number(payload: bytes) -> int:
    return int.from_bytes(payload[:8], "big")


class Member(Protocol):
    """One node. `listen` and `send` tell what happens to `Deliveries`."""

    name: str
    kernel: KernelProcess

    async def open(self) -> None:
        """Connect to its running processes."""

    async def close(self) -> None:
        """Disconnect."""

    async def healthy(self) -> bool:
        """Whether it has all the peers that it wants; False when it does not answer."""

    async def listen(self) -> None:
        """Take what comes until cancelled."""

    async def send(self, number: int) -> None:
        """Send the message of this number."""

    def watched(self) -> list[Watched]:
        """Its processes, to be looked at."""


class KernelMember:
    """A kernel that relays. Its client stays while the process is killed and started again."""

    def __init__(
        self, name: str, directory: Path, deliveries: Deliveries, clock: Clock, *options: str
    ) -> None:
        self.name = name
        self.kernel = KernelProcess(directory / name, *SERVER, *options)
        self._deliveries = deliveries
        self._clock = clock
        self._client: KernelClient | None = None

    @property
    def client(self) -> KernelClient:
        assert self._client is not None, "open"
        return self._client

    async def open(self) -> None:
        run = self.kernel.directory / "run"
        self._client = await KernelClient.connect(run, name="soak", timeout=START_SECONDS)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()

    async def healthy(self) -> bool:
        if not self.client.connected:
            return False
        try:
            return any(
                shard.health == "SUFFICIENTLY_HEALTHY" for shard in (await self.client.health()).shards
            )
        except LogosError:
            return False

    async def listen(self) -> None:
        async with self.client.events(shards=[0]) as feed:
            async for event in feed:
                if isinstance(event, KernelMessage):
                    number = _number(event.payload)
                    self._deliveries.receive(self.name, event.instance, number, self._clock())

    async def send(self, number: int) -> None:
        try:
            await self.client.publish(TOPIC, _payload(number))
        except LogosError as error:
            self._deliveries.fail(number, self._clock(), repr(error))
        else:
            self._deliveries.out(number, self._clock())

    def watched(self) -> list[Watched]:
        return [_watch_kernel(self.name, self.kernel)]


class EdgeMember:
    """A kernel without relay, a Messaging API in edge mode and an app."""

    def __init__(
        self, name: str, directory: Path, deliveries: Deliveries, clock: Clock, *options: str
    ) -> None:
        self.name = name
        self.kernel = KernelProcess(directory / name, *COMMON, "--relay=false", *options)
        self._node = MapiProcess(
            directory / f"{name}-mapi",
            "--mode=edge",
            "--log-level=WARN",
            kernel_dir=self.kernel.directory,
        )
        self._deliveries = deliveries
        self._clock = clock
        self._client: MessagingClient | None = None
        self._sends: dict[bytes, int] = {}

    @property
    def client(self) -> MessagingClient:
        assert self._client is not None, "open"
        return self._client

    async def open(self) -> None:
        self._node.start()
        await self._node.ready(START_SECONDS)
        self._client = await MessagingClient.connect(
            self._node.run_dir, name=self.name, timeout=START_SECONDS
        )
        errors = await self._client.subscribe(TOPIC)
        assert not errors, errors

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
        await asyncio.to_thread(self._node.__exit__, None, None, None)

    async def healthy(self) -> bool:
        try:
            status = await self.client.status()
        except LogosError:
            return False
        return status.connection == "Connected" and status.topics.get(TOPIC) == "SUFFICIENTLY_HEALTHY"

    async def listen(self) -> None:
        async for event in self.client:
            now = self._clock()
            if isinstance(event, MessageReceived):
                self._deliveries.receive(self.name, event.stream_id, _number(event.payload), now)
            elif isinstance(event, MessagePropagated) and event.request_id in self._sends:
                self._deliveries.out(self._sends.pop(event.request_id), now)
            elif isinstance(event, MessageError) and event.request_id in self._sends:
                self._deliveries.fail(self._sends.pop(event.request_id), now, event.text)

    async def send(self, number: int) -> None:
        request_id = b"soak".ljust(8, b".") + number.to_bytes(8, "big")
        self._sends[request_id] = number
        try:
            await self.client.send(TOPIC, _payload(number), request_id=request_id)
        except LogosError as error:
            del self._sends[request_id]
            self._deliveries.fail(number, self._clock(), repr(error))

    def watched(self) -> list[Watched]:
        mapi = Watched(f"{self.name} mapi", self._node.control, self._node.data_dir)
        return [_watch_kernel(self.name, self.kernel), mapi]


def _watch_kernel(name: str, kernel: KernelProcess) -> Watched:
    return Watched(name, kernel.endpoints.control, kernel.directory)
