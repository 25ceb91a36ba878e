"""The bench `bridge`: what the bridge costs between a kernel's streams and JetStream.

The reference publishes the same messages with nats-py alone to the same server, also waiting for each
acknowledgement, with as many under way. The kernel is the pipeline's: its event publisher, ring and sockets
without a network. `latency` is from the kernel's (or the publisher's) call to a subscriber of the server.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

from tests.bench.harness import (
    BenchError,
    Case,
    Child,
    CpuMeter,
    Options,
    Round,
    alternate,
    kib,
    percentile,
    result,
)
from tests.bench.pipeline.wire import ACK, HEAD
from tests.support.bridge_process import BridgeProcess
from tests.support.nats_server import NatsServer

BENCH: Final = "bridge"
REFERENCE: Final = "nats-py alone, the same window, the same server"
TOPIC: Final = "/bench/1/bridge/proto"
BARE_SUBJECT: Final = "logos.messages.42.0.bench.1.bare.proto"
SIZES: Final = {150: 20_000, 1024: 20_000, 14 * 1024: 4_000}
WINDOW: Final = 2_000
WINDOW_BYTES: Final = 4 << 20
"""The kernel's ring has 8 MiB."""
RATE: Final = 200
RATED: Final = 400
OUTAGE_MESSAGES: Final = 10_000
RATIO: Final = 0.6
SECONDS: Final = 60.0

_rounds = itertools.count(1)


async def _expected(_: Exception) -> None:
    """Take no notice: the server is killed on purpose."""


class _Far:
    """Reads the server on a loop of its own, and tells the source how much has come. A context manager."""

    def __init__(self, url: str, acks: Path) -> None:
        self._url = url
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._acks = socket.socket(socket.AF_UNIX)
        self._acks.connect(str(acks))
        self._acks.sendall(TOPIC.encode())
        self.expected = 0
        self.round = 0
        self.seen: dict[int, int] = {}
        self.done = threading.Event()
        self.last_ns = 0
        self._telling = False

    def __enter__(self) -> Self:
        self._thread.start()
        self._client: Client = asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()
        return self

    async def _open(self) -> Client:
        client = await nats.connect(
            self._url, max_reconnect_attempts=-1, reconnect_time_wait=0.05, error_cb=_expected
        )
        await client.subscribe("logos.messages.>", cb=self._take, pending_msgs_limit=0, pending_bytes_limit=0)
        return client

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._client.close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._acks.close()

    def expect(self, number: int, messages: int, *, acks: bool = True) -> None:
        """Begin a round; `acks`: the kernel is its source, and learns how much has come."""
        self.round, self.expected, self.seen, self._telling = number, messages, {}, acks
        self.done.clear()

    async def _take(self, message: Msg) -> None:
        number, sent = HEAD.unpack_from(message.data)
        if number >> 32 != self.round:
            return
        now = time.monotonic_ns()
        self.seen[number] = now - sent
        if len(self.seen) % 100 == 0 or len(self.seen) == self.expected:
            self.acknowledge(len(self.seen))
        if len(self.seen) == self.expected:
            self.last_ns = now
            self.done.set()

    def acknowledge(self, count: int) -> None:
        """Tell the kernel."""
        if self._telling:
            self._acks.send(ACK.pack(count))

    def wait(self) -> list[int]:
        """Wait for the end of the round; the latencies."""
        if not self.done.wait(SECONDS):
            raise BenchError(f"{len(self.seen)} of {self.expected} messages came, {self.stored()} stored")
        return list(self.seen.values())

    def stored(self) -> int:
        """Messages that the stream holds."""

        async def ask() -> int:
            return (await self._client.jetstream().stream_info("logos-messages")).state.messages

        return asyncio.run_coroutine_threadsafe(ask(), self._loop).result()


class _Line:
    """One side: a source, and whose CPU it takes."""

    def __init__(self, source: Child, far: _Far, pids: dict[str, int], **fixed: object) -> None:
        self._source = source
        self._far = far
        self._pids = pids
        self._fixed = fixed

    def run(self, size: int, messages: int, rate: int | None = None) -> Round:
        """One round: messages/s, or with a rate the latency in µs."""
        number = next(_rounds)
        before = self._far.stored()
        self._far.expect(number, messages, acks="topic" in self._fixed)
        meter = CpuMeter(self._pids)
        window = max(16, min(WINDOW, WINDOW_BYTES // size))
        self._source.send(round=number, messages=messages, size=size, window=window, rate=rate, **self._fixed)
        published = self._source.event("published")
        latencies = self._far.wait()
        cpu = meter.per_message(messages)
        stored = self._far.stored() - before
        if stored != messages:
            raise BenchError(f"{messages} messages were sent, {stored} are stored")
        if rate is not None:
            return Round(percentile(latencies, 0.5) / 1000, cpu, {"p99": percentile(latencies, 0.99) / 1000})
        return Round(messages / ((self._far.last_ns - published["start_ns"]) / 1e9), cpu)


def bridge(options: Options) -> Iterator[dict[str, Any]]:
    """Throughput by size, added latency, and how fast an outage is made up for."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lb-")))
        server = stack.enter_context(NatsServer())
        server.wait_ready()
        kernel = stack.enter_context(
            Child.python(
                "kernel", "tests.bench.pipeline.kernel", str(directory / "k"), str(directory / "acks")
            )
        )
        kernel.event("ready")
        process = BridgeProcess(
            directory / "m",
            *(
                f"--kernel-dir={directory / 'k'}",
                "--mapi=false",
                f"--nats-url={server.url}",
                "--bridge-shard=0",
            ),
        )
        stack.enter_context(process)
        process.wait_ready()
        assert process.process is not None
        far = stack.enter_context(_Far(server.url, directory / "acks"))
        bare = stack.enter_context(Child.python("bare", "tests.bench.bridge_bare", server.url))
        bare.event("ready")
        ours = _Line(kernel, far, {"bridge": process.process.pid, "server": server.pid}, topic=TOPIC)
        reference = _Line(bare, far, {"bridge": bare.pid, "server": server.pid}, subject=BARE_SUBJECT)
        yield from _throughput(options, ours, reference)
        yield from _latency(options, ours, reference)
        if options.wants("catch-up"):
            yield _catch_up(options, server, kernel, far, reference)


def _throughput(options: Options, ours: _Line, reference: _Line) -> Iterator[dict[str, Any]]:
    for size, count in SIZES.items():
        if not options.wants(kib(size)):
            continue
        messages = options.count(count)
        for line in (ours, reference):
            line.run(size, max(20, messages // 10))  # not measured
        rounds = alternate(
            options.runs, partial(ours.run, size, messages), partial(reference.run, size, messages)
        )
        case = Case(BENCH, kib(size), "msg/s", REFERENCE, more={"messages": messages})
        case.target, case.reached = f"ratio ≥ {RATIO}", lambda line: line["ratio"] >= RATIO
        yield result(case, *rounds)


def _latency(options: Options, ours: _Line, reference: _Line) -> Iterator[dict[str, Any]]:
    name = f"latency, {kib(1024)} at {RATE} msg/s"
    if options.wants(name):
        messages = options.count(RATED)
        rounds = alternate(
            options.runs,
            partial(ours.run, 1024, messages, RATE),
            partial(reference.run, 1024, messages, RATE),
        )
        line = result(Case(BENCH, name, "µs p50", REFERENCE, more={"messages": messages}), *rounds)
        line["added_us"] = round(line["ours"] - line["reference"])
        yield line


def _catch_up(
    options: Options, server: NatsServer, kernel: Child, far: _Far, reference: _Line
) -> dict[str, Any]:
    """The server is away while the kernel goes on; the kernel's ring has it all when the server is back."""
    messages, size = options.count(OUTAGE_MESSAGES), 150

    def run() -> Round:
        number, before = next(_rounds), far.stored()
        far.expect(number, messages)
        server.kill()
        kernel.send(round=number, messages=messages, size=size, window=messages, topic=TOPIC, rate=5_000)
        time.sleep(messages / 5_000 + 0.5)
        server.start()
        server.wait_ready()
        back = time.monotonic_ns()
        while far.stored() - before < messages:
            time.sleep(0.02)
        taken = (time.monotonic_ns() - back) / 1e9
        far.acknowledge(messages)  # the subscriber may have missed some while it connected again
        kernel.event("published")
        return Round(messages / taken, {}, {"seconds": taken})

    rounds = [run() for _ in range(max(1, options.runs // 2))]
    bare = [reference.run(size, messages) for _ in rounds]
    case = Case(BENCH, "catch-up after an outage", "msg/s", REFERENCE, more={"messages": messages})
    return result(case, rounds, bare)
