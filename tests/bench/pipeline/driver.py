"""The bench `pipeline`: kernel → Messaging API → app, three processes, against the same in bare pyzmq."""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import zmq

from ipc_schema.frames import decode_reply, encode_request
from ipc_schema.paths import mapi_endpoints
from tests.bench.harness import BenchError, Case, Child, CpuMeter, Options, Round, alternate, kib, result

BENCH: Final = "pipeline"
REFERENCE: Final = "bare pyzmq drain loops, three processes"
JOURNALLED: Final = "bare pyzmq drain loops, three processes, the middle with SQLite"
BLIND: Final = "1 KiB, journal off, against blind reads"
LARGEST: Final = 150 * 1024 - 512
"""The largest payload that fits a relay frame of 153,600 B with the bench's content topic, rounded."""
SIZES: Final = {150: 20_000, 1024: 20_000, 14 * 1024: 8_000, LARGEST: 1_500}
"""Payload size → messages of a run."""
WINDOW_MESSAGES: Final = 100
WINDOW_BYTES: Final = 4 << 20
RATE: Final = 200
RATED_MESSAGES: Final = 400
RATED_SIZE: Final = 1024
READY_SECONDS: Final = 30.0
LOG_SHOWN: Final = 4_000

_rounds = itertools.count(1)
"""Numbers of rounds: no two messages of a run are equal, on whatever line they go."""

_EPHEMERAL: Final = "/bench/1/ephemeral/proto"
_NAMED: Final = "/bench/1/named/proto"


def window(size: int) -> int:
    """Messages outstanding at most. The kernel's XPUB drops from 218 waiting messages on, and libzmq gives
    room back in steps of half of that; below is room for both."""
    return max(8, min(WINDOW_MESSAGES, WINDOW_BYTES // size))


class _Line:
    """A source and an app with what is between them."""

    def __init__(self, source: Child, app: Child, topic: str, pids: Mapping[str, int]) -> None:
        self._source = source
        self._app = app
        self._topic = topic
        self._pids = pids

    def run(self, size: int, messages: int, *, rate: int | None = None) -> Round:
        """One round: messages/s, or with a rate the latency."""
        number = next(_rounds)
        outstanding = window(size)
        self._app.ask(
            "expecting",
            round=number,
            messages=messages,
            ack_every=max(1, outstanding // 2),
            timed=rate is not None,
        )
        meter = CpuMeter(self._pids)
        self._source.send(
            round=number, messages=messages, size=size, window=outstanding, topic=self._topic, rate=rate
        )
        received = self._app.event("received")
        published = self._source.event("published")
        cpu = meter.per_message(messages)
        if received["received"] != messages or received["duplicates"]:
            raise BenchError(f"{messages} messages were sent, the app says {received}")
        if rate is not None:
            return Round(received["p50_us"], cpu, {"p99": received["p99_us"]})
        return Round(messages / ((received["last_ns"] - published["start_ns"]) / 1e9), cpu)


class _Pair(NamedTuple):
    """One of our lines and what it is compared with."""

    ours: _Line
    bare: _Line
    reference: str

    def compare(
        self, options: Options, case: Case, size: int, messages: int, rate: int | None = None
    ) -> dict[str, Any]:
        """Run both in turn, once unmeasured."""
        for line in (self.ours, self.bare):
            line.run(size, max(20, messages // 10), rate=rate)
        ours, reference = alternate(
            options.runs,
            partial(self.ours.run, size, messages, rate=rate),
            partial(self.bare.run, size, messages, rate=rate),
        )
        return result(case, ours, reference)


@contextmanager
def _mapi(directory: Path, kernel_directory: Path) -> Iterator[int]:
    """A Messaging API process that is ready; its pid."""
    log = directory.parent / "mapi.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "mapi_proc"),
                *("--data-dir", str(directory), "--kernel-dir", str(kernel_directory)),
            ],
            stdout=output,
            stderr=output,
        )
    try:
        end = time.monotonic() + READY_SECONDS
        while not _health(directory).get("ready"):
            if process.poll() is not None or time.monotonic() > end:
                raise BenchError(f"mapi_proc is not ready:\n{log.read_text(errors='replace')[:LOG_SHOWN]}")
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _health(directory: Path, seconds: float = 1.0) -> dict[str, Any]:
    """What the Messaging API's control socket tells; empty when it does not answer."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.set(zmq.LINGER, 0)
        dealer.connect(mapi_endpoints(directory / "run").control)
        dealer.send_multipart(encode_request(bytes(16), "health"))
        if not dealer.poll(int(seconds * 1000)):
            return {}
        return dict(decode_reply(dealer.recv_multipart()).body)


def _start_ours(stack: ExitStack, directory: Path) -> tuple[_Line, _Line, Callable[[], dict[str, Any]]]:
    """Kernel, Messaging API and two apps: the lines to the ephemeral and to the named one, and health."""
    run, data = directory / "k", directory / "m"
    lines = []
    source = stack.enter_context(
        Child.python("kernel", "tests.bench.pipeline.kernel", str(run), str(directory / "acks"))
    )
    source.event("ready")
    mapi = stack.enter_context(_mapi(data, run))
    for topic, name in ((_EPHEMERAL, ()), (_NAMED, ("bench",))):
        arguments = (str(data / "run"), str(directory / "acks"), topic, *name)
        app = stack.enter_context(Child.python("app", "tests.bench.pipeline.app", *arguments))
        app.event("ready")
        lines.append(_Line(source, app, topic, {"kernel": source.pid, "mapi": mapi, "app": app.pid}))
    return lines[0], lines[1], lambda: _health(data)


def _start_bare(stack: ExitStack, directory: Path, how: str, *, journal: bool = False) -> _Line:
    """The reference: `whole` or `blind` (see `bare`), with a journal of its own or without."""
    name = f"{how}-journal" if journal else how
    events, apps = f"ipc://{directory}/{name}-e", f"ipc://{directory}/{name}-a"
    acks = str(directory / name)

    def child(role: str, *arguments: str) -> Child:
        started = stack.enter_context(Child.python(role, "tests.bench.pipeline.bare", role, *arguments))
        started.event("ready")
        return started

    database = [f"{directory}/bare.sqlite3"] if journal else []
    source, middle = child("source", events, acks), child("middle", events, apps, how, *database)
    app = child("app", apps, acks, how)
    source.event("subscribed")
    pids = {"kernel": source.pid, "mapi": middle.pid, "app": app.pid}
    return _Line(source, app, _EPHEMERAL, pids)


def pipeline(options: Options) -> Iterator[dict[str, Any]]:
    """Throughput by size with the journal off and on, then latency at a given rate."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lb-")))
        ephemeral, named, health = _start_ours(stack, directory)
        pairs = {
            "off": _Pair(ephemeral, _start_bare(stack, directory, "whole"), REFERENCE),
            "on": _Pair(named, _start_bare(stack, directory, "whole", journal=True), JOURNALLED),
        }
        for line in _cases(stack, directory, options, pairs):
            gaps = health()["receive"]["gaps"]
            if gaps:  # nothing is lost by it, but the figure is that of a replay
                line["gaps_so_far"] = gaps
            yield line


def _cases(
    stack: ExitStack, directory: Path, options: Options, pairs: Mapping[str, _Pair]
) -> Iterator[dict[str, Any]]:
    for size, messages in SIZES.items():
        for journal, pair in pairs.items():
            case = Case(BENCH, f"{kib(size)}, journal {journal}", "msg/s", pair.reference)
            count = options.count(messages)
            case.more = {"messages": count, "window": window(size)}
            if journal == "on" or size == 1024:
                case.target, case.reached = "ratio ≥ 0.7", lambda line: line["ratio"] >= 0.7
            if options.wants(case.name):
                yield pair.compare(options, case, size, count)
    for journal, pair in pairs.items():
        case = Case(BENCH, f"{kib(RATED_SIZE)} at {RATE} msg/s, journal {journal}", "µs p50", pair.reference)
        count = options.count(RATED_MESSAGES)
        case.more = {"messages": count}
        if journal == "off":
            case.target, case.reached = "p50 ≤ 1000 µs", lambda line: line["ours"] <= 1000
        if options.wants(case.name):
            yield pair.compare(options, case, RATED_SIZE, count, RATE)
    if options.wants(BLIND):  # how far away the fastest loops are that pyzmq allows; no target
        bare = _start_bare(stack, directory, "blind")
        pair = _Pair(pairs["off"].ours, bare, f"{REFERENCE}, frames read blindly")
        count = options.count(SIZES[1024])
        case = Case(BENCH, BLIND, "msg/s", pair.reference, more={"messages": count})
        yield pair.compare(options, case, 1024, count)
