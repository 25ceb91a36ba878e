"""The link against a kernel that publishes while it replays, over real sockets."""

from __future__ import annotations

import asyncio
import functools
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conformance.kernel_server import TOPIC, ScriptedKernel
from ipc_schema.hello import NetworkInfo
from ipc_schema.kernel.events import MessageEvent
from ipc_schema.kernel.methods import KernelHello
from ipc_schema.kernel.records import NodeHealth
from ipc_schema.steady import SteadyClock
from mapi_proc.kernel_link.link import KernelLink
from mapi_proc.kernel_link.tracker import Missed, StreamPlace
from tests.support.aio import asyncio_test
from tests.support.kernel_process import short_directory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

SHARD = 0


class Listener:
    """Keeps what arrives."""

    def __init__(self) -> None:
        self.seqs: list[int] = []
        self.missing: list[Missed] = []
        self.network: NetworkInfo | None = None

    def kernel_up(self, hello: KernelHello) -> None:
        self.network = hello.network

    def kernel_down(self, reason: str) -> None: ...

    def kernel_health(self, health: NodeHealth) -> None: ...

    def position(self, shard: int, position: StreamPlace) -> None: ...

    def missed(self, shard: int, missed: Missed) -> None:
        self.missing.append(missed)

    def message(self, shard: int, event: MessageEvent, payload: bytes) -> None:
        assert (shard, payload) == (SHARD, str(event.seq).encode())
        self.seqs.append(event.seq)


class World:
    """A scripted kernel, and a link that follows its shard."""

    def __init__(self, kernel: ScriptedKernel, link: KernelLink, listener: Listener) -> None:
        self.kernel = kernel
        self.link = link
        self.listener = listener

    async def until(self, condition: Callable[[], Any]) -> None:
        while not condition():
            self.kernel.receive()
            await asyncio.sleep(0.001)

    def publish(self, count: int, *, dropped: bool = False) -> None:
        for _ in range(count):
            self.kernel.publish(str(self.kernel.last + 1).encode(), dropped=dropped)

    def holds(self, seqs: list[int]) -> bool:
        """Whether these live events wait for the replay."""
        tracker = self.link.tracker(SHARD)
        assert tracker is not None
        return [event.seq for event, _ in tracker._held._events] == seqs

    def subscribed(self) -> bool:
        return TOPIC in self.kernel._subscribed

    def count(self, method: str) -> int:
        return sum(request.method == method for request in self.kernel.requests)


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    with short_directory() as directory:
        async with world_in(directory) as found:
            yield found


@asynccontextmanager
async def world_in(directory: Path) -> AsyncIterator[World]:
    kernel = ScriptedKernel(directory)
    listener = Listener()
    link = KernelLink(
        kernel.endpoint,
        f"ipc://{directory}/kernel/control",
        "mapi",
        steady=SteadyClock(time.time_ns, time.monotonic_ns),
    )
    link.set_listener(listener)
    link.want([SHARD], {})
    running = asyncio.create_task(link.run())
    try:
        yield World(kernel, link, listener)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await link.close()
        kernel.close()


@asyncio_test()
async def test_a_stream_that_goes_on_while_it_is_replayed_is_not_replayed_on_and_on() -> None:
    async with world() as at:
        await at.until(lambda: not at.link.resyncing and at.subscribed())
        at.kernel.answers["stream.replay"].extend([{"hold": "reply"}] * 100)
        at.publish(5, dropped=True)
        at.publish(1)
        for last in (8, 10):  # each page has three
            await at.until(lambda: at.kernel.held)
            at.publish(2)
            await at.until(functools.partial(at.holds, list(range(6, last + 1))))
            at.kernel.release(1)
        await at.until(lambda: at.listener.seqs == list(range(1, 11)))
        at.publish(1)
        await at.until(lambda: at.listener.seqs == list(range(1, 12)))
        assert at.count("stream.replay") == 2
        assert at.link.counters["gaps"] == 1
        assert at.link.counters["dropped_live"] == 0
        assert at.listener.missing == []


@asyncio_test()
async def test_a_heartbeat_with_other_coverage_renews_the_lease_and_is_not_a_gap() -> None:
    async with world() as at:
        await at.until(lambda: not at.link.resyncing and at.subscribed())
        leases = at.count("lease.acquire")
        at.kernel.covered = False
        await at.until(lambda: at.count("lease.acquire") > leases)
        assert at.link.counters["gaps"] == 0


@asyncio_test()
async def test_what_comes_while_a_lease_is_acquired_is_neither_lost_nor_replayed() -> None:
    async with world() as at:
        at.kernel.answers["lease.acquire"].append({"hold": "reply"})
        await at.until(lambda: at.kernel.held and at.subscribed())
        at.publish(2)
        await at.until(lambda: at.holds([1, 2]))
        at.kernel.release(1)
        await at.until(lambda: at.listener.seqs == [1, 2])
        at.publish(1)
        await at.until(lambda: at.listener.seqs == [1, 2, 3])
        assert at.count("stream.replay") == 0
