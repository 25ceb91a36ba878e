"""Two nodes (kernel, one of them with an archive, and MAPI) and a named app on each.

Both apps send at a steady rate and receive what the other sends. One JSON line for each interval, one for
each figure at the end. Bad: a message that was lost or doubled, a send that failed, a process that ended, a
figure that grew beyond its bound (tests/soak/growth.py).
"""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from logos_client import MessageError, MessageReceived, MessagingClient
from tests.soak.watched import Watched, emit, report_growth, warm_up
from tests.support.kernel_process import KernelProcess, short_directory
from tests.support.mapi_process import MapiProcess

RATE: Final = 20.0
TOPIC: Final = "/soak/1/{}/proto"
PAYLOAD: Final = 512
DRAIN_SECONDS: Final = 30.0
KERNEL: Final = ("--replay-budget=2MiB", "--log-level=WARN")
STORE: Final = ("--store=true", "--store-message-retention-policy=capacity:5000")


@dataclass
class Traffic:
    """One direction, from an app to the other."""

    sent: int = 0
    failed: int = 0
    received: set[int] = field(default_factory=set)
    doubled: int = 0
    worst_ms: float = 0.0

    def take(self, payload: bytes) -> None:
        number, sent = int.from_bytes(payload[:8], "big"), int.from_bytes(payload[8:16], "big")
        self.doubled += number in self.received
        self.received.add(number)
        self.worst_ms = max(self.worst_ms, (time.monotonic_ns() - sent) / 1e6)


async def _read(client: MessagingClient, theirs: Traffic, ours: Traffic, topic: str) -> None:
    async for event in client:
        if isinstance(event, MessageReceived) and event.content_topic == topic:
            theirs.take(event.payload)
        elif isinstance(event, MessageError):
            ours.failed += 1


async def _send(client: MessagingClient, topic: str, traffic: Traffic, rate: float, seconds: float) -> None:
    start = time.monotonic()
    while (now := time.monotonic() - start) < seconds:
        due = traffic.sent / rate
        if due > now:
            await asyncio.sleep(due - now)
        head = traffic.sent.to_bytes(8, "big") + time.monotonic_ns().to_bytes(8, "big")
        await client.send(topic, head.ljust(PAYLOAD, b"."))
        traffic.sent += 1


async def _watch(processes: list[Watched], after: float, interval: float) -> None:
    start = time.monotonic()
    while True:
        seen = await asyncio.gather(*(asyncio.to_thread(process.look) for process in processes))
        at = time.monotonic() - start
        for process, sample in zip(processes, seen, strict=True):
            if at >= after:
                process.samples.append(sample)
        emit(seconds=round(at), **{each.name: sample for each, sample in zip(processes, seen, strict=True)})
        await asyncio.sleep(interval)


async def _soak(runs: list[Path], processes: list[Watched], seconds: float, rate: float) -> bool:
    names, traffic = ("a", "b"), (Traffic(), Traffic())
    async with (
        MessagingClient.connect(runs[0], name="a", timeout=30) as one,
        MessagingClient.connect(runs[1], name="b", timeout=30) as two,
    ):
        clients = (one, two)
        tasks = []
        for own, other in ((0, 1), (1, 0)):
            await clients[own].subscribe(TOPIC.format(names[other]))
            tasks.append(
                asyncio.create_task(
                    _read(clients[own], traffic[other], traffic[own], TOPIC.format(names[other]))
                )
            )
        async with asyncio.timeout(60):
            while (await one.status()).connection == "Disconnected":
                await asyncio.sleep(0.1)
        watch = asyncio.create_task(_watch(processes, warm_up(seconds), max(1.0, min(10.0, seconds / 60))))
        sends = asyncio.gather(
            *(
                _send(client, TOPIC.format(name), each, rate, seconds)
                for client, name, each in zip(clients, names, traffic, strict=True)
            )
        )
        running: list[asyncio.Future[Any]] = [watch, sends, *tasks]
        done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            await task  # whatever it failed with ends the run
        end = time.monotonic() + DRAIN_SECONDS
        while any(len(each.received) < each.sent for each in traffic) and time.monotonic() < end:
            await asyncio.sleep(0.1)
        for task in (watch, *tasks):
            task.cancel()
        await asyncio.gather(watch, *tasks, return_exceptions=True)
    return _report(processes, dict(zip(names, traffic, strict=True)), seconds - warm_up(seconds))


def _report(processes: list[Watched], traffic: dict[str, Traffic], seconds: float) -> bool:
    good = True
    for name, each in traffic.items():
        lost = each.sent - len(each.received)
        good = good and not (lost or each.doubled or each.failed)
        emit(
            app=name,
            sent=each.sent,
            lost=lost,
            doubled=each.doubled,
            failed=each.failed,
            worst_ms=round(each.worst_ms, 1),
        )
    messages = sum(each.sent for each in traffic.values())
    for process in processes:
        good = report_growth(process, seconds, messages) and good
    return good


def run_pair(seconds: float, rate: float) -> bool:
    """`rate`: messages a second of each app. Returns whether all was well."""
    with ExitStack() as stack:
        place = stack.enter_context(short_directory())
        kernels: list[KernelProcess] = []
        nodes: list[MapiProcess] = []
        watched: list[Watched] = []
        for number in range(2):
            peers = [f"--staticnode={kernel.address()}" for kernel in kernels]
            kernel = KernelProcess(place / f"k{number}", *KERNEL, *peers, *(() if number else STORE))
            kernels.append(stack.enter_context(kernel))
            watched.append(Watched(f"kernel {number}", kernel.endpoints.control, kernel.directory))
            node = MapiProcess(place / f"m{number}", "--log-level=WARN", kernel_dir=kernel.directory)
            nodes.append(stack.enter_context(node))
            asyncio.run(node.ready())
            watched.append(Watched(f"mapi {number}", node.control, node.data_dir))
        runs = [node.run_dir for node in nodes]
        try:
            good = asyncio.run(_soak(runs, watched, seconds, rate))
        except (OSError, TimeoutError) as error:
            sys.stderr.write(f"soak: {error!r}\n")
            good = False
        for log in sorted(place.glob("*.log")):
            text = log.read_text(errors="replace")
            if text:
                sys.stderr.write(f"--- {log.name}\n{text[-4000:]}\n")
    return good
