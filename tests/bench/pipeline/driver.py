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
from typing import Any, Final

import zmq

from ipc_schema.frames import decode_reply, encode_request
from ipc_schema.paths import mapi_endpoints
from tests.bench.harness import BenchError, Case, Child, CpuMeter, Options, Round, alternate, kib, result

__all__ = ["pipeline"]

BENCH: Final = "pipeline"
REFERENCE: Final = "bare pyzmq drain loops, three processes"
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


def _start_bare(stack: ExitStack, directory: Path, how: str) -> _Line:
    """The reference: `whole` or `blind` (see `bare`)."""
    events, apps = f"ipc://{directory}/{how}-e", f"ipc://{directory}/{how}-a"
    acks = str(directory / how)

    def child(role: str, *arguments: str) -> Child:
        started = stack.enter_context(Child.python(role, "tests.bench.pipeline.bare", role, *arguments))
        started.event("ready")
        return started

    source, middle = child("source", events, acks), child("middle", events, apps, how)
    app = child("app", apps, acks, how)
    source.event("subscribed")
    pids = {"kernel": source.pid, "mapi": middle.pid, "app": app.pid}
    return _Line(source, app, _EPHEMERAL, pids)


def pipeline(options: Options) -> Iterator[dict[str, Any]]:
    """Throughput by size with the journal off and on, then latency at a given rate."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lb-")))
        ephemeral, named, health = _start_ours(stack, directory)
        bare = _start_bare(stack, directory, "whole")
        for line in _cases(stack, directory, options, ephemeral, named, bare):
            gaps = health()["receive"]["gaps"]
            if gaps:  # nothing is lost by it, but the figure is that of a replay
                line["gaps_so_far"] = gaps
            yield line


def _cases(
    stack: ExitStack, directory: Path, options: Options, ephemeral: _Line, named: _Line, bare: _Line
) -> Iterator[dict[str, Any]]:
    for size, messages in SIZES.items():
        yield from _throughput(options, size, options.count(messages), ephemeral, named, bare)
    yield from _latency(options, ephemeral, named, bare)
    if options.wants(BLIND):
        yield _blind(options, ephemeral, _start_bare(stack, directory, "blind"))


def _throughput(
    options: Options, size: int, messages: int, ephemeral: _Line, named: _Line, bare: _Line
) -> Iterator[dict[str, Any]]:
    sides = {"off": ephemeral, "on": named}
    names = {journal: f"{kib(size)}, journal {journal}" for journal in sides}
    wanted = {journal: line for journal, line in sides.items() if options.wants(names[journal])}
    if not wanted:
        return
    for line in (*wanted.values(), bare):
        line.run(size, max(20, messages // 10))  # not measured
    rounds = alternate(
        options.runs, *(partial(line.run, size, messages) for line in (*wanted.values(), bare))
    )
    for journal, ours in zip(wanted, rounds, strict=False):
        case = Case(
            BENCH, names[journal], "msg/s", REFERENCE, more={"messages": messages, "window": window(size)}
        )
        if size == 1024 and journal == "off":
            case.target, case.reached = "ratio ≥ 0.7", lambda line: line["ratio"] >= 0.7
        elif size == 1024:
            case.target, case.reached = "≥ 5000 msg/s", lambda line: line["ours"] >= 5000
        yield result(case, ours, rounds[-1])


def _blind(options: Options, ephemeral: _Line, bare: _Line) -> dict[str, Any]:
    """How far away the fastest loops are that pyzmq allows; no target."""
    size, messages = 1024, options.count(SIZES[1024])
    for line in (ephemeral, bare):
        line.run(size, max(20, messages // 10))  # not measured
    ours, reference = alternate(
        options.runs, partial(ephemeral.run, size, messages), partial(bare.run, size, messages)
    )
    case = Case(BENCH, BLIND, "msg/s", f"{REFERENCE}, frames read blindly", more={"messages": messages})
    return result(case, ours, reference)


def _latency(options: Options, ephemeral: _Line, named: _Line, bare: _Line) -> Iterator[dict[str, Any]]:
    messages = options.count(RATED_MESSAGES)
    for journal, line in (("off", ephemeral), ("on", named)):
        name = f"{kib(RATED_SIZE)} at {RATE} msg/s, journal {journal}"
        if not options.wants(name):
            continue
        for side in (line, bare):
            side.run(RATED_SIZE, 20, rate=RATE)
        ours, reference = alternate(
            options.runs,
            partial(line.run, RATED_SIZE, messages, rate=RATE),
            partial(bare.run, RATED_SIZE, messages, rate=RATE),
        )
        case = Case(BENCH, name, "µs p50", REFERENCE, more={"messages": messages})
        if journal == "off":
            case.target, case.reached = "p50 ≤ 1000 µs", lambda line: line["ours"] <= 1000
        yield result(case, ours, reference)
