"""The bench `send`: what sending costs with the durable outbox on. Two nodes and a store between them, all
real processes; a named app on one node sends messages of 1 KiB and waits for what becomes of them.

`accepted`: as many sends as the Messaging API takes, 128 outstanding. The reference is the same disk, asked
to have each message for good alone. `propagated` and `confirmed` are of the same messages, up to the last
one's event; a store is asked for a message when it is three seconds old, so a run ends seconds after its last
send.
`accept latency`: at 100 sends a second, which is what an app feels. The reference is one sync of the disk,
measured in turn with it, a second at a time: how long a sync takes changes with the other users of the disk.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from logos_client.events import Event, MessageError, MessagePropagated, MessageSent, MessageUnconfirmed
from logos_client.messaging import MessagingClient
from tests.bench.disk import DISK, file_system, fsync_ms, fsync_p50, refuse_memory
from tests.bench.harness import BenchError, Case, CpuMeter, Options, Round, percentile, result
from tests.support.kernel_process import KernelProcess
from tests.support.mapi_process import MapiProcess
from tests.support.nodes import TOPIC, wait_status

BENCH: Final = "send"
SIZE: Final = 1024
BURST: Final = 6000
OUTSTANDING: Final = 128
PACED: Final = 100
PACE: Final = 0.01
TURNS: Final = 6
SYNCS: Final = 40
PATIENCE: Final = 90.0
ACCEPTED_TARGET: Final = 1000.0

T = TypeVar("T")


class Burst(NamedTuple):
    """One run: messages a second until the last one's word, ms of latency, CPU in µs per message."""

    accepted: float
    propagated: float
    confirmed: float
    accept_ms: list[float]
    propagate_ms: list[float]
    confirm_ms: list[float]
    cpu: dict[str, float]


@contextmanager
def network(directory: Path) -> Iterator[dict[str, int]]:
    """Two nodes with a store between them; the pids of all that has a part in sending from node a."""
    with ExitStack() as stack:
        store = stack.enter_context(KernelProcess(directory / "s", "--store=true", "--shard=0"))
        dial = f"--staticnode={store.address()}"
        sender = stack.enter_context(KernelProcess(directory / "a", dial))
        stack.enter_context(KernelProcess(directory / "b", dial))
        mapi = stack.enter_context(MapiProcess(directory / "a", "--outbox-max-messages=100000"))
        stack.enter_context(MapiProcess(directory / "b"))
        assert sender.process is not None
        assert store.process is not None
        yield {"mapi": mapi.pid, "kernel": sender.process.pid, "store": store.process.pid}


def send(options: Options) -> Iterator[dict[str, Any]]:
    """The lines of all cases."""
    refuse_memory(DISK)
    with tempfile.TemporaryDirectory(prefix="bench-send-", dir=DISK) as place:
        directory = Path(place)
        with network(directory) as pids:
            bursts, syncs = asyncio.run(_bursts(directory, pids, options))
            yield from (line for line in _burst_lines(bursts, syncs) if options.wants(line["case"]))
            if options.wants("accept latency"):
                yield asyncio.run(_paced(directory, options))


class _Sender:
    """The app: sends, and the times at which it heard of each."""

    def __init__(self, client: MessagingClient) -> None:
        self.client = client
        self.begun: dict[bytes, float] = {}
        self.heard: dict[type[Event], dict[bytes, float]] = {MessagePropagated: {}, MessageSent: {}}

    async def send(self) -> float:
        """Send one message; ms until it was accepted."""
        request_id = os.urandom(16)
        payload = request_id + b"." * (SIZE - len(request_id))
        started = self.begun[request_id] = time.perf_counter()
        await self.client.send(TOPIC, payload, request_id=request_id, timeout=PATIENCE)
        return (time.perf_counter() - started) * 1000

    async def hear(self, count: int) -> None:
        """Wait until `count` messages were reported as sent."""
        sent = self.heard[MessageSent]
        while len(sent) < count:
            event = await self.client.next_event(PATIENCE)
            if isinstance(event, MessageUnconfirmed | MessageError):
                raise BenchError(f"a send failed: {event}")
            if isinstance(event, MessagePropagated | MessageSent):
                self.heard[type(event)][event.request_id] = time.perf_counter()

    def latencies(self, kind: type[Event]) -> list[float]:
        """ms from the send to the event, for each message."""
        return [(at - self.begun[request_id]) * 1000 for request_id, at in self.heard[kind].items()]

    def rate(self, kind: type[Event]) -> float:
        """Messages a second from the first send to the last event."""
        heard = self.heard[kind]
        return len(heard) / (max(heard.values()) - min(self.begun.values()))


async def _with_app(directory: Path, name: str, work: Callable[[_Sender], Awaitable[T]]) -> T:
    async with MessagingClient.connect(directory / "a" / "run", name=name, timeout=30) as client:
        await client.subscribe(TOPIC)
        await wait_status(client)
        sender = _Sender(client)
        async with asyncio.timeout(PATIENCE * 3):
            for _ in range(20):  # warm
                await sender.send()
            await sender.hear(20)
            for times in (sender.begun, *sender.heard.values()):
                times.clear()
            return await work(sender)


async def _bursts(directory: Path, pids: dict[str, int], options: Options) -> tuple[list[Burst], list[float]]:
    bursts: list[Burst] = []
    syncs: list[float] = []
    for run in range(options.runs):
        syncs.append(fsync_p50(directory))
        bursts.append(
            await _with_app(
                directory, f"burst-{run}", lambda sender: _burst(sender, pids, options.count(BURST))
            )
        )
    return bursts, syncs


async def _burst(sender: _Sender, pids: dict[str, int], count: int) -> Burst:
    meter = CpuMeter(pids)
    accept_ms: list[float] = []
    left = iter(range(count))

    async def work() -> None:
        accept_ms.extend([await sender.send() for _ in left])

    async with asyncio.TaskGroup() as group:
        hearing = group.create_task(sender.hear(count))
        await asyncio.gather(*(work() for _ in range(OUTSTANDING)))
        accepted = count / (time.perf_counter() - min(sender.begun.values()))
        await hearing
    return Burst(
        accepted,
        sender.rate(MessagePropagated),
        sender.rate(MessageSent),
        accept_ms,
        sender.latencies(MessagePropagated),
        sender.latencies(MessageSent),
        meter.per_message(count),
    )


def _burst_lines(bursts: list[Burst], syncs: list[float]) -> Iterator[dict[str, Any]]:
    disk = {"fsync_p50_ms": round(sorted(syncs)[len(syncs) // 2], 3), "file_system": file_system(DISK)}
    alone = [Round(1000 / sync, {}) for sync in syncs]
    reference = "syncs of the same disk a second, one message each"
    figures: tuple[tuple[str, Callable[[Burst], tuple[float, list[float]]]], ...] = (
        ("accepted", lambda burst: (burst.accepted, burst.accept_ms)),
        ("propagated", lambda burst: (burst.propagated, burst.propagate_ms)),
        ("confirmed", lambda burst: (burst.confirmed, burst.confirm_ms)),
    )
    for name, of in figures:
        rounds = []
        for burst in bursts:
            rate, times = of(burst)
            extra = {"p50_ms": percentile(times, 0.5), "p99_ms": percentile(times, 0.99)}
            rounds.append(Round(rate, burst.cpu, extra))
        case = Case(BENCH, f"{name}, {OUTSTANDING} outstanding", "msg/s", reference, more=disk)
        if name == "accepted":
            case.target = f"≥ {ACCEPTED_TARGET:,.0f} msg/s"
            case.reached = lambda line: line["ours"] >= ACCEPTED_TARGET
        yield result(case, rounds, alone)


async def _paced(directory: Path, options: Options) -> dict[str, Any]:
    count = options.count(PACED)
    ours: list[Round] = []
    reference: list[Round] = []

    async def turn(sender: _Sender) -> list[float]:
        due = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            sends: list[asyncio.Task[float]] = []
            for _ in range(count):
                due += PACE
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                sends.append(group.create_task(sender.send()))
        return [send.result() for send in sends]

    async def work(sender: _Sender) -> None:
        times: list[float] = []
        syncs: list[float] = []
        async with asyncio.TaskGroup() as group:
            group.create_task(sender.hear(count * TURNS))
            for _ in range(TURNS):
                times += await turn(sender)
                syncs += await asyncio.to_thread(fsync_ms, directory, SYNCS)
        ours.append(Round(percentile(times, 0.5), {}, {"p99": percentile(times, 0.99)}))
        reference.append(Round(percentile(syncs, 0.5), {}, {"p99": percentile(syncs, 0.99)}))

    for run in range(options.runs):
        await _with_app(directory, f"paced-{run}", work)
    case = Case(
        BENCH,
        "accept latency at 100 sends/s",
        "ms, p50",
        "one sync of the same disk",
        target="≤ 2 × fsync p50 + 2 ms",
        reached=lambda line: line["ours"] <= 2 * line["reference"] + 2,
        more={"file_system": file_system(DISK)},
    )
    return result(case, ours, reference)
