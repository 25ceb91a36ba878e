"""`python -m tests.soak [--minutes 30] [--rate 20]`: steady load on two nodes, and what grows in them.

Two nodes (kernel, one of them with an archive, and MAPI) and a named app on each: both send at a steady rate
and receive what the other sends. One JSON line for each interval, one for each figure at the end. Exit code 1
when a message was lost or doubled, a send failed, a process ended, or a figure grew beyond its bound
(tests/soak/growth.py). The first quarter of the time, at most five minutes, is warm-up and not compared.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import time
import urllib.request
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from logos_client import MessageError, MessageReceived, MessagingClient
from tests.soak.growth import growth
from tests.support.kernel_process import KernelProcess, short_directory
from tests.support.mapi_process import MapiProcess

TOPIC: Final = "/soak/1/{}/proto"
PAYLOAD: Final = 512
WARM_UP: Final = (0.25, 300.0)
DRAIN_SECONDS: Final = 30.0
METRICS: Final = ("--metrics-server=true", "--metrics-server-port=0")
KERNEL: Final = (*METRICS, "--replay-budget=2MiB", "--log-level=WARN")
STORE: Final = ("--store=true", "--store-message-retention-policy=capacity:5000")
_FIGURES: Final = {
    "memory": "process_resident_memory_bytes",
    "files": "process_open_fds",
    "tasks": "logos_delivery_tasks",
    "cpu": "process_cpu_seconds_total",
}


@dataclass
class Watched:
    """One process: where its pages are, where its database is, and what was seen of it."""

    name: str
    port: int
    data: Path
    samples: list[dict[str, float]] = field(default_factory=list)

    def look(self) -> dict[str, float]:
        """The figures now. Raises OSError when it does not answer."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as response:
            page = response.read().decode()
        values = dict(re.findall(r"^(\w+) (\S+)$", page, re.MULTILINE))
        seen = {figure: float(values[name]) for figure, name in _FIGURES.items()}
        for figure, pattern in (("database", "*.sqlite3"), ("wal", "*.sqlite3-wal")):
            seen[figure] = float(sum(path.stat().st_size for path in self.data.glob(pattern)))
        return seen


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


async def _watch(processes: list[Watched], warm_up: float, interval: float) -> None:
    start = time.monotonic()
    while True:
        seen = await asyncio.gather(*(asyncio.to_thread(process.look) for process in processes))
        at = time.monotonic() - start
        for process, sample in zip(processes, seen, strict=True):
            if at >= warm_up:
                process.samples.append(sample)
        _emit(seconds=round(at), **{each.name: sample for each, sample in zip(processes, seen, strict=True)})
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
        warm_up = min(seconds * WARM_UP[0], WARM_UP[1])
        watch = asyncio.create_task(_watch(processes, warm_up, max(1.0, min(10.0, seconds / 60))))
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
    return _report(processes, dict(zip(names, traffic, strict=True)), seconds - warm_up)


def _report(processes: list[Watched], traffic: dict[str, Traffic], seconds: float) -> bool:
    good = True
    for name, each in traffic.items():
        lost = each.sent - len(each.received)
        good = good and not (lost or each.doubled or each.failed)
        _emit(
            app=name,
            sent=each.sent,
            lost=lost,
            doubled=each.doubled,
            failed=each.failed,
            worst_ms=round(each.worst_ms, 1),
        )
    messages = sum(each.sent for each in traffic.values())
    for process in processes:
        used = process.samples[-1]["cpu"] - process.samples[0]["cpu"]
        _emit(process=process.name, cpu_percent=round(100 * used / seconds, 1))
        for found in growth(process.name, process.samples, seconds, messages):
            good = good and found.within
            _emit(**asdict(found), grown=found.grown, within=found.within)
    return good


def _emit(**values: object) -> None:
    print(json.dumps(values), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="Steady load; what grows?")
    parser.add_argument("--minutes", type=float, default=30.0, help="length of the run (30)")
    parser.add_argument("--rate", type=float, default=20.0, help="messages per second of each app (20)")
    arguments = parser.parse_args()
    if arguments.minutes < 0.25 or arguments.rate <= 0:
        parser.error("at least a quarter of a minute, and a rate above 0")
    with ExitStack() as stack:
        place = stack.enter_context(short_directory())
        kernels: list[KernelProcess] = []
        nodes: list[MapiProcess] = []
        watched: list[Watched] = []
        for number in range(2):
            peers = [f"--staticnode={kernel.address()}" for kernel in kernels]
            kernel = KernelProcess(place / f"k{number}", *KERNEL, *peers, *(() if number else STORE))
            kernels.append(stack.enter_context(kernel))
            port = kernel.info("MyBoundPorts")["MyBoundPorts"]["metrics"]
            watched.append(Watched(f"kernel {number}", port, kernel.directory))
            node = MapiProcess(
                place / f"m{number}", *METRICS, "--log-level=WARN", kernel_dir=kernel.directory
            )
            nodes.append(stack.enter_context(node))
            port = asyncio.run(node.ready())["metrics_port"]
            watched.append(Watched(f"mapi {number}", port, node.data_dir))
        runs = [node.run_dir for node in nodes]
        try:
            good = asyncio.run(_soak(runs, watched, arguments.minutes * 60, arguments.rate))
        except (OSError, TimeoutError) as error:
            sys.stderr.write(f"soak: {error!r}\n")
            good = False
        for log in sorted(place.glob("*.log")):
            text = log.read_text(errors="replace")
            if text:
                sys.stderr.write(f"--- {log.name}\n{text[-4000:]}\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
