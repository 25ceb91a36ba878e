"""The bench `archive-relay`: what its archive costs a relaying kernel. The kernel is a real one, its store on
SQLite holds 100,000 messages before anything is measured, and every message goes through it to a node behind.

`latency with 50 queries/s`: p99 from the time a message is due at its publisher to the node behind the
kernel, 500 messages/s in an open loop, while an asker has pages of 20 from the same kernel. The reference is
the same kernel without queries.
`inserts while relaying`: a second kernel is flooded with `relay.publish`; messages/s until the last one is in
the database of the first. The reference is the same flood through a kernel without store, until the last one
is at the node behind it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final

import trio

from ipc_schema.config.archive import RetentionPolicy, parse_database_url
from ipc_schema.message import WakuMessage
from kernel_proc.archive import make_archive
from kernel_proc.archive.api import ArchiveState
from kernel_proc.archive.settings import ArchiveSettings
from tests.bench.archive_relay.node import PAYLOAD, TOPIC, content_topic, make_filler, stamped
from tests.bench.disk import DISK, refuse_memory
from tests.bench.harness import BenchError, Case, Child, CpuMeter, Options, Round, alternate, result
from tests.bench.kernels import metric, until
from tests.support.kernel_process import KernelProcess

BENCH: Final = "archive-relay"
NODE: Final = "tests.bench.archive_relay.node"
PRELOADED: Final = 100_000
SPAN_NS: Final = 3_600_000_000_000
"""The time that the preloaded messages are spread over."""
SAMPLES: Final = 10_000
RATE: Final = 500.0
QUERIES: Final = 50.0
FLOOD: Final = 20_000
WINDOW: Final = 128
"""Requests without reply at the flooded kernel; it takes 256 of one client."""
BATCH: Final = 256
AHEAD: Final = 4
"""Batches without word of the node behind: below what a queue of the relay holds, so that none is dropped."""
RUN_SECONDS: Final = 300.0
NWAKU_RATE: Final = 445
"""Messages/s that nwaku relays with its SQLite store on (measured)."""
_KERNEL: Final = ("--shard=0", "--ip-colocation-limit=0")
_STORE: Final = ("--store=true", "--store-message-retention-policy=none")


def archive_relay(options: Options) -> Iterator[dict[str, Any]]:
    """The lines of both cases."""
    refuse_memory(DISK)
    cases = {"latency with 50 queries/s": _latency, "inserts while relaying": _inserts}
    wanted = {name: lines for name, lines in cases.items() if options.wants(name)}
    if not wanted:
        return
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-ar-", dir=DISK)))
        preloaded = options.count(PRELOADED)
        start = preload(place / "k", preloaded)
        kernel = _Relaying(stack, place / "k", *_STORE)
        for name, lines in wanted.items():
            with ExitStack() as case_stack:
                line = lines(case_stack, place, kernel, start, name, options)
            yield line | {"preloaded": preloaded}


def preload(directory: Path, messages: int) -> int:
    """Fill the archive that a kernel of this data directory will open; the first message's timestamp."""
    directory.mkdir(parents=True)
    settings = ArchiveSettings(
        database=parse_database_url("sqlite://store.sqlite3", directory), retention=RetentionPolicy()
    )
    start, random = time.time_ns() - SPAN_NS, Random(1)

    async def fill() -> None:
        archive = make_archive(settings)
        async with trio.open_nursery() as nursery:
            await nursery.start(archive.run)
            with trio.fail_after(30):
                while archive.state is not ArchiveState.READY:
                    await trio.sleep(0.01)
            for number in range(messages):
                at = start + number * SPAN_NS // messages
                message = WakuMessage(random.randbytes(PAYLOAD), content_topic(number), timestamp=at)
                # The hash is made up: these messages are not looked up by it.
                while not archive.offer(TOPIC, message, random.randbytes(32), at):
                    await trio.sleep(0.01)
                if number % 200 == 0:
                    await trio.sleep(0)
            await archive.flush()
            nursery.cancel_scope.cancel()
        if archive.counters["stored"] != messages:
            raise BenchError(f"{messages} messages to preload: {archive.counters}")

    trio.run(fill)
    return start


class _Relaying:
    """A kernel under test and the node behind it."""

    def __init__(self, stack: ExitStack, directory: Path, *options: str) -> None:
        self._kernel = stack.enter_context(KernelProcess(directory, *_KERNEL, *options))
        self.address = self._kernel.address()
        self.dealer = self._kernel.dealer()
        self.receiver = node(stack, "receiver", self.address)
        assert self._kernel.process is not None
        self.pid = self._kernel.process.pid
        self.rounds = 0

    def expect(self, messages: int, tell_every: int = 0) -> int:
        """Begin a round at the node behind; its number."""
        self.rounds += 1
        self.receiver.ask(
            "expecting", cmd="expect", round=self.rounds, messages=messages, tell_every=tell_every
        )
        return self.rounds

    def in_mesh(self, peers: int) -> None:
        """Wait until the kernel has so many mesh peers, no more: each costs it a copy of every message."""
        until(
            lambda: len(self.dealer.ok("relay.mesh", {})["topics"].get(TOPIC, ())) == peers,
            f"a mesh of {peers}",
        )

    def archived(self) -> int:
        """Messages that this process of the kernel has put into its database."""
        return metric(self.dealer, "archive_stored_total")


def node(stack: ExitStack, role: str, address: str) -> Child:
    """A process beside a kernel, connected to it."""
    child = stack.enter_context(Child.python(role, NODE, role, address))
    child.event("ready")
    return child


# --- latency ---


def _latency(
    stack: ExitStack, _place: Path, kernel: _Relaying, start: int, name: str, options: Options
) -> dict[str, Any]:
    publisher = node(stack, "publisher", kernel.address)
    asker = node(stack, "asker", kernel.address)
    kernel.in_mesh(2)
    samples = options.count(SAMPLES)

    def run(messages: int, *, asking: bool) -> Round:
        before, number = kernel.archived(), kernel.expect(messages)
        meter = CpuMeter({"kernel": kernel.pid})
        if asking:
            asker.send(cmd="ask", rate=QUERIES, start=start, end=start + SPAN_NS)
        publisher.send(cmd="publish", round=number, messages=messages, rate=RATE)
        publisher.event("published", RUN_SECONDS)
        received = kernel.receiver.event("received", RUN_SECONDS)
        cpu = meter.per_message(messages) | {"receiver": received["cpu_us"]}
        extra = {"p50_ms": received["p50_ms"], "p99_ms": received["p99_ms"]}
        if asking:
            asked = asker.ask("asked", cmd="stop")
            extra |= {"queries": asked["queries"], "queries_refused": asked["refused"]}
            extra |= {"query_p50_ms": asked["p50_ms"], "query_p99_ms": asked["p99_ms"]}
        until(lambda: kernel.archived() - before >= messages, "every message in the archive")
        return Round(received["p99_ms"], cpu, extra)

    for asking in (True, False):
        run(max(20, samples // 10), asking=asking)  # not measured
    rounds = alternate(options.runs, partial(run, samples, asking=True), partial(run, samples, asking=False))
    case = Case(
        BENCH,
        name,
        "ms, p99",
        "the same kernel without queries",
        target="ratio ≤ 2",
        reached=lambda line: line["ratio"] is not None and line["ratio"] <= 2,
        more={"samples": samples, "messages_per_s": RATE, "payload": PAYLOAD},
    )
    line = result(case, *rounds)
    return line | {"p50_ratio": round(line["p50_ms"] / line["reference_p50_ms"], 3)}


# --- inserts ---


class _Flood:
    """A kernel that only publishes, into the one under test."""

    def __init__(self, stack: ExitStack, place: Path, target: _Relaying) -> None:
        self._target = target
        dial = f"--staticnode={target.address}"
        self._kernel = stack.enter_context(KernelProcess(place, *_KERNEL, dial))
        self._dealer = self._kernel.dealer()
        until(lambda: self._dealer.ok("relay.mesh", {})["topics"].get(TOPIC), "a mesh of both kernels")
        target.in_mesh(2)
        assert self._kernel.process is not None
        self._pids = {"kernel": target.pid, "publisher": self._kernel.process.pid}

    def run(self, messages: int, *, stored: bool) -> Round:
        """Messages/s until the last is archived (`stored`), or at the node behind."""
        target = self._target
        before = target.archived()
        number, filler = target.expect(messages, BATCH), make_filler(target.rounds)
        meter = CpuMeter(self._pids)
        start = time.monotonic_ns()
        progress = self._send(messages, number, filler)
        for _ in range(messages // BATCH - progress):
            target.receiver.event("progress")
        received = target.receiver.event("received")
        last = relayed = received["last_ns"]
        if stored:
            until(lambda: target.archived() - before >= messages, "every message in the archive")
            last = max(last, time.monotonic_ns())
        cpu = meter.per_message(messages) | {"receiver": received["cpu_us"]}
        return Round(
            messages * 1e9 / (last - start), cpu, {"relayed_per_s": messages * 1e9 / (relayed - start)}
        )

    def _send(self, messages: int, number: int, filler: bytes) -> int:
        """Publish all; return how many batches the node behind has reported."""
        waiting = progress = 0
        for index in range(messages):
            if index % BATCH == 0 and index >= AHEAD * BATCH:
                self._target.receiver.event("progress")
                progress += 1
            if waiting == WINDOW:
                self._published()
                waiting -= 1
            now = time.time_ns()
            self._dealer.send(
                "relay.publish",
                {"content_topic": content_topic(index), "pubsub_topic": TOPIC, "timestamp": now},
                [stamped(number, index, time.monotonic_ns(), filler)],
            )
            waiting += 1
        for _ in range(waiting):
            self._published()
        return progress

    def _published(self) -> None:
        reply = self._dealer.receive(30.0)
        if reply.error is not None or reply.body["peers"] != 1:
            raise BenchError(f"a publish was answered with {reply.error or reply.body}")


def _inserts(
    stack: ExitStack, place: Path, kernel: _Relaying, _start: int, name: str, options: Options
) -> dict[str, Any]:
    ours = _Flood(stack, place / "p", kernel)
    reference = _Flood(stack, place / "q", _Relaying(stack, place / "r"))
    messages = options.count(FLOOD)
    sides = partial(ours.run, stored=True), partial(reference.run, stored=False)
    for side in sides:
        side(max(20, messages // 10))  # not measured
    rounds = alternate(options.runs, *(partial(side, messages) for side in sides))
    case = Case(
        BENCH,
        name,
        "msg/s",
        "the same flood through a kernel without store",
        target="≥ 5,000 msg/s",
        reached=lambda line: line["ours"] >= 5000,
        more={"messages": messages, "payload": PAYLOAD, "nwaku_with_store_per_s": NWAKU_RATE},
    )
    return result(case, *rounds)
