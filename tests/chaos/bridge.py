"""Two bridged nodes, a store and three NATS servers under load each way, while any of them is killed.

    python -m tests.chaos.bridge [--rate 500] [--seconds 60] [--calm]

At the end every message of the network stands in the stream once, and every send has one final fate and was
one message of the network, whichever bridge or host ended it.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self, TypeVar

import nats
import nats.errors

from logos_client.exceptions import NoPeersError
from logos_client.kernel import KernelClient
from tests.support.bridge_process import BridgeProcess
from tests.support.kernel_process import KernelProcess
from tests.support.mapi_process import MapiProcess
from tests.support.nats_server import NatsServer, nats_cluster
from tests.support.nodes import TOPIC

T = TypeVar("T")

FINAL: Final = {"sent", "unconfirmed", "error", "cancelled"}
SETTLED_SECONDS: Final = 300.0
_TAKEOVER: Final = 4
SEND_SUBJECT: Final = "logos.sends.toychat.2.huilong.proto"


@dataclass(slots=True)
class BridgedNode:
    """A node and its bridge, as one host."""

    kernel: KernelProcess
    mapi: MapiProcess
    bridge: BridgeProcess

    def kill(self) -> None:
        """The host is gone."""
        for process in (self.bridge, self.mapi):
            process.kill()
        assert self.kernel.process is not None
        self.kernel.process.kill()
        self.kernel.process.wait()


@dataclass(slots=True)
class Verdict:
    """What was found at the end."""

    published: int = 0
    sends: int = 0
    lost: int = 0
    doubled: int = 0
    fates: Counter[int] = field(default_factory=Counter)
    """Number of final fates → how many sends have so many."""
    kinds: Counter[str] = field(default_factory=Counter)
    messages_of_send: Counter[int] = field(default_factory=Counter)
    """Number of different messages on the network → how many sends became so many."""

    settle_seconds: float = 0.0
    """From the end of the load until nothing was open any more."""

    def line(self) -> dict[str, object]:
        """Return it as JSON."""
        return {name: getattr(self, name) for name in (*self.__dataclass_fields__, "good")}

    @property
    def good(self) -> bool:
        """Whether nothing was lost or doubled, and every send has one fate."""
        return (
            self.lost == self.doubled == 0
            and set(self.fates) <= {1}
            and set(self.messages_of_send) <= {1}
            and sum(self.fates.values()) == self.sends
        )


async def _expected(_: Exception) -> None:
    """Take no notice: servers are killed on purpose."""


class BridgeStory:
    """The processes, the load, and the check. A context manager."""

    def __init__(self, directory: Path, *, rate: float, window: int = 120) -> None:
        self._directory = directory
        self._rate = rate
        self._window = window
        self._stack = ExitStack()
        self.published: set[str] = set()
        self.sends: set[str] = set()
        self._numbers = itertools.count()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.servers: list[NatsServer] = stack.enter_context(nats_cluster())
            self.urls = [server.url for server in self.servers]
            directory = self._directory
            relaying = ("--shard=0", "--ip-colocation-limit=0")
            self.store = stack.enter_context(KernelProcess(directory / "s", "--store=true", *relaying))
            dial = f"--staticnode={self.store.address()}"
            self.nodes = []
            for name in ("a", "b"):
                kernel = stack.enter_context(KernelProcess(directory / name, dial, *relaying))
                mapi = stack.enter_context(MapiProcess(directory / name))
                bridge = BridgeProcess(
                    directory / name,
                    *(f"--nats-url={url}" for url in self.urls),
                    "--nats-replicas=3",
                    f"--bridge-duplicate-window={self._window}",
                    f"--bridge-takeover-after={_TAKEOVER}",
                )
                self.nodes.append(BridgedNode(kernel, mapi, stack.enter_context(bridge)))
            for node in self.nodes:
                node.bridge.wait_ready()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    # -- the load --------------------------------------------------------------------------------------------

    async def run(self, moves: Sequence[Callable[[Self], Awaitable[None]]], pause: float) -> Verdict:
        """Load both ways, and a move after each pause; then wait until all is settled, and look."""
        client = await nats.connect(
            self.urls, max_reconnect_attempts=-1, reconnect_time_wait=0.2, error_cb=_expected
        )
        self.js = client.jetstream()
        try:
            async with KernelClient.connect(self._directory / "s" / "run") as kernel:
                stop = asyncio.Event()
                # With more at once from one client the kernel is `busy`, and publishes nothing.
                turns = asyncio.Semaphore(kernel.limits.in_flight // 2)
                load = [
                    asyncio.create_task(self._paced(stop, lambda: self._publish(kernel, turns))),
                    asyncio.create_task(self._paced(stop, self._send)),
                ]
                await asyncio.sleep(pause)
                for move in moves:
                    await move(self)
                    await asyncio.sleep(pause)
                stop.set()
                await asyncio.gather(*load)
            ended = time.monotonic()
            await self._settle()
            verdict = await self._judge()
            verdict.settle_seconds = round(time.monotonic() - ended, 1)
            return verdict
        finally:
            await client.close()

    async def _paced(self, stop: asyncio.Event, one: Callable[[], Awaitable[None]]) -> None:
        loop = asyncio.get_running_loop()
        begun, done = loop.time(), 0
        under_way: set[asyncio.Task[None]] = set()
        while not stop.is_set():
            while done < (loop.time() - begun) * self._rate and len(under_way) < 1_000:
                task = asyncio.ensure_future(one())
                under_way.add(task)
                task.add_done_callback(under_way.discard)
                done += 1
            await asyncio.sleep(0.01)
        await asyncio.gather(*under_way)

    async def _publish(self, kernel: KernelClient, turns: asyncio.Semaphore) -> None:
        payload = f"out-{next(self._numbers)}".encode()
        async with turns:
            with suppress(NoPeersError):  # no peer heard it
                self.published.add("0x" + (await kernel.publish(TOPIC, payload)).message_hash.hex())

    async def _send(self) -> None:
        name = f"in-{next(self._numbers)}"
        await self.reliably(
            lambda: self.js.publish(SEND_SUBJECT, name.encode(), headers={"Nats-Msg-Id": name}, timeout=3)
        )
        self.sends.add(name)

    async def reliably(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Repeat what a cluster without a leader does not answer."""
        while True:
            try:
                return await operation()
            except (nats.errors.Error, TimeoutError, OSError):
                await asyncio.sleep(0.1)

    # -- moves -----------------------------------------------------------------------------------------------

    async def kill_bridge(self) -> None:
        """A bridge ends and is started again, as its supervisor does."""
        bridge = self.nodes[0].bridge
        bridge.kill()
        bridge.start()

    async def kill_kernel(self) -> None:
        """A kernel likewise: its streams start again at 1."""
        kernel = self.nodes[0].kernel
        assert kernel.process is not None
        kernel.process.kill()
        kernel.process.wait()
        kernel.launch()

    async def kill_mapi(self) -> None:
        """A Messaging API likewise."""
        mapi = self.nodes[0].mapi
        mapi.kill()
        mapi.start()

    async def kill_nats_leader(self) -> None:
        """The NATS server that leads the stream of messages ends, and comes back when another one leads."""
        leader = await self._leader()
        server = next(server for server in self.servers if server.name == leader)
        server.kill()
        while await self._leader() in ("", leader):
            await asyncio.sleep(0.1)
        server.start()

    async def kill_host(self) -> None:
        """The first node's host ends and does not come back."""
        await asyncio.to_thread(self.nodes[0].kill)

    async def _leader(self) -> str:
        info = await self.reliably(lambda: self.js.stream_info("logos-messages"))
        return (info.cluster.leader if info.cluster else "") or ""

    # -- the end ---------------------------------------------------------------------------------------------

    async def _settle(self) -> None:
        deadline = asyncio.get_running_loop().time() + SETTLED_SECONDS
        while True:
            queued = await self._count("logos-sends")
            still_open = await self._count("KV_logos-open")
            stored = await self._count("logos-messages")
            if not queued and not still_open and stored >= len(self.published) + len(self.sends):
                return
            assert asyncio.get_running_loop().time() < deadline, (
                f"{queued} in the queue, {still_open} open, {stored} stored of {len(self.published)} "
                f"and {len(self.sends)}; {self.nodes[-1].bridge.status()}\n"
                f"{self.nodes[-1].bridge.log()[-6000:]}"
            )
            await asyncio.sleep(0.2)

    async def _count(self, stream: str) -> int:
        return (await self.reliably(lambda: self.js.stream_info(stream))).state.messages

    async def _judge(self) -> Verdict:
        messages = await self._read("logos-messages")
        ids = Counter(headers["Nats-Msg-Id"] for headers, _ in messages)
        of_send = Counter(data.decode() for _, data in messages if data.startswith(b"in-"))
        finals: Counter[str] = Counter()
        kinds: Counter[str] = Counter()
        for headers, data in await self._read("logos-fates"):
            if headers["Logos-Fate"] in FINAL:
                finals[json.loads(data)["sendId"]] += 1
                kinds[headers["Logos-Fate"]] += 1
        return Verdict(
            published=len(self.published),
            sends=len(self.sends),
            lost=len(self.published - set(ids)) + len(self.sends - set(of_send)),
            doubled=sum(count - 1 for count in ids.values()),
            fates=Counter(finals[name] for name in self.sends),
            kinds=kinds,
            messages_of_send=Counter(of_send[name] for name in self.sends),
        )

    async def _read(self, stream: str) -> list[tuple[dict[str, str], bytes]]:
        info = await self.reliably(lambda: self.js.stream_info(stream))
        found: list[tuple[dict[str, str], bytes]] = []
        subscription = await self.js.subscribe(">", stream=stream, ordered_consumer=True)
        while len(found) < info.state.messages:
            message = await subscription.next_msg(timeout=20)
            found.append((dict(message.headers or {}), message.data))
        return found


MOVES: Final = (
    BridgeStory.kill_bridge,
    BridgeStory.kill_nats_leader,
    BridgeStory.kill_kernel,
    BridgeStory.kill_mapi,
    BridgeStory.kill_bridge,
    BridgeStory.kill_host,
)


def main() -> int:
    """Run the long form. Return 0 if nothing was lost or doubled."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rate", type=float, default=500.0, help="messages a second, each way (500)")
    parser.add_argument("--seconds", type=float, default=60.0, help="load, the moves spread over it (60)")
    parser.add_argument("--calm", action="store_true", help="kill nothing")
    arguments = parser.parse_args()
    moves = () if arguments.calm else MOVES
    with (
        tempfile.TemporaryDirectory(prefix="lb-") as name,
        BridgeStory(Path(name), rate=arguments.rate) as story,
    ):
        verdict = asyncio.run(story.run(moves, arguments.seconds / (len(moves) + 1)))
    print(json.dumps({**vars(arguments), **verdict.line()}))
    return 0 if verdict.good else 1


if __name__ == "__main__":
    sys.exit(main())
