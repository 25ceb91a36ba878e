"""The bench `relay`: node to node, against gossipsub of go-, rust- and js-libp2p in the same layout."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final

from tests.bench.harness import BenchError, Case, Child, CpuMeter, Options, Round, alternate, kib, result
from tests.bench.relay.pair import Fan, NodePair, start
from tests.bench.relay.sides import OURS, Side, Unavailable, build_references, sink

BENCH: Final = "relay"
SIZES: Final = {150: 25_000, 1024: 20_000, 14 * 1024: 8_000, 100 * 1024: 1_500}
"""Payload size → messages of a run."""
WARM_UP_BYTES: Final = 128 << 20
LATENCY_RATE: Final = 200
LATENCY_MESSAGES: Final = 400
LATENCY_SIZE: Final = 1024
FAN_HOSTS: Final = 20
FAN_SIZES: Final = {1024: 2_000, 100 * 1024: 150}
CONNECTIONS: Final = (0, 50, 150, 300)
IDLE_SECONDS: Final = 5.0
QUIET_SECONDS: Final = 2.0
"""After connections were made, before idleness is measured."""


def relay(options: Options) -> Iterator[dict[str, Any]]:
    """Throughput by size, latency, fan-out, and idle connections; one line for each reference of a case.

    The cases are named `1 KiB against go`, `latency against go` and so on.
    """
    parts: dict[str, Callable[[Options, str, list[Side]], Iterator[dict[str, Any]]]] = {
        **{kib(size): partial(_throughput, size) for size in SIZES},
        "latency": _latency,
        **{f"fan-out {kib(size)}": partial(_fan_out, size) for size in FAN_SIZES},
        "idle connections": _idle,
    }

    def wanted(key: str) -> bool:
        return any(options.wants(f"{part} against {key}") for part in parts)

    references = build_references(wanted=wanted, log=_log)
    if not references:
        raise BenchError("no reference can run here")
    for name, part in parts.items():
        chosen = [side for side in references if options.wants(f"{name} against {side.key}")]
        if chosen:
            yield from part(options, name, chosen)


def _log(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _against(case: Case, ours: list[Round], references: dict[Side, list[Round]]) -> Iterator[dict[str, Any]]:
    for side, rounds in references.items():
        line = result(
            Case(
                case.bench,
                f"{case.name} against {side.key}",
                case.unit,
                side.name,
                case.target,
                case.reached,
                case.more,
            ),
            ours,
            rounds,
        )
        line["cpu_ratio"] = {
            process: round(line["cpu_us"][process] / line["reference_cpu_us"][process], 3)
            for process in line["cpu_us"]
            if line["reference_cpu_us"][process]
        }
        yield line


def _throughput(size: int, options: Options, name: str, references: list[Side]) -> Iterator[dict[str, Any]]:
    messages = options.count(SIZES[size])
    sides = [OURS, *references]
    with ExitStack() as stack:
        pairs = {side: NodePair(stack, side) for side in sides}
        for side, pair in pairs.items():
            pair.run(size, _warm_up(options, side, size))
        runs = [partial(pair.run, size, messages) for pair in pairs.values()]
        ours, *others = alternate(options.runs, *runs)
    case = Case(BENCH, name, "msg/s", "", more={"messages": messages})
    yield from _against(case, ours, dict(zip(references, others, strict=True)))


def _warm_up(options: Options, side: Side, size: int) -> int:
    return options.count(min(side.warm_up, WARM_UP_BYTES // size))


def _latency(options: Options, name: str, references: list[Side]) -> Iterator[dict[str, Any]]:
    messages = options.count(LATENCY_MESSAGES)
    with ExitStack() as stack:
        pairs = {side: NodePair(stack, side) for side in [OURS, *references]}
        for side, pair in pairs.items():
            pair.run(LATENCY_SIZE, _warm_up(options, side, LATENCY_SIZE))
        runs = [partial(pair.pace, LATENCY_SIZE, messages, LATENCY_RATE) for pair in pairs.values()]
        ours, *others = alternate(options.runs, *runs)
    case = Case(BENCH, name, "µs p50", "", more={"messages": messages, "rate": LATENCY_RATE})
    yield from _against(case, ours, dict(zip(references, others, strict=True)))


def _fan_out(size: int, options: Options, name: str, references: list[Side]) -> Iterator[dict[str, Any]]:
    """What one more copy of a message costs the publisher: its CPU with many receivers less that with one."""
    messages = options.count(FAN_SIZES[size])
    # js-libp2p loses peers of a crowd that comes at once.
    sides = [OURS, *(side for side in references if side.key != "js")]
    try:
        receivers = sink()
    except Unavailable as error:
        _log(f"relay: {name} is left out: {error}")
        return

    def rounds(hosts: int) -> list[list[Round]]:
        with ExitStack() as stack:
            fans = [Fan(stack, side, receivers, hosts) for side in sides]
            for side, fan in zip(sides, fans, strict=True):
                fan.run(size, min(_warm_up(options, side, size), messages))
            return alternate(options.runs, *(partial(fan.run, size, messages) for fan in fans))

    alone, many = rounds(1), rounds(FAN_HOSTS)
    further = [_further_copy(one, row) for one, row in zip(alone, many, strict=True)]
    case = Case(BENCH, name, "µs CPU of a further copy", "", more={"messages": messages, "hosts": FAN_HOSTS})
    yield from _against(case, further[0], dict(zip(sides[1:], further[1:], strict=True)))


def _further_copy(alone: list[Round], many: list[Round]) -> list[Round]:
    base = statistics.median(row.cpu["publisher"] for row in alone)
    return [
        Round(
            (row.cpu["publisher"] - base) / (FAN_HOSTS - 1),
            {"publisher": row.cpu["publisher"]},
            {"publisher_to_one": base, "copies_per_s": row.value * FAN_HOSTS},
        )
        for row in many
    ]


def _idle(options: Options, name: str, references: list[Side]) -> Iterator[dict[str, Any]]:
    """Memory and CPU of a node with connections on which nothing happens."""
    try:
        receivers = sink()
    except Unavailable as error:
        _log(f"relay: {name} is left out: {error}")
        return
    sides = [OURS, *(side for side in references if side.key != "js")]
    rounds = {side: [_idle_round(side, receivers)] for side in sides}
    case = Case(BENCH, name, "KB of memory for each", "")
    ours = rounds.pop(OURS)
    for line in _against(case, ours, rounds):
        line.pop("cpu_ratio")
        yield line


def _idle_round(side: Side, receivers: Side) -> Round:
    memory: dict[str, float] = {}
    idle: dict[str, float] = {}
    with ExitStack() as stack:
        node = start(stack, side, "publisher")
        address = node.event("ready")["addresses"][0]
        peers = start(stack, receivers, "sink")
        peers.event("ready")
        dialled = 0
        for count in CONNECTIONS:
            if count > dialled:
                peers.ask("dialled", cmd="dial", address=address, hosts=count - dialled)
                node.ask("attended", cmd="attend", ackPort=0, peers=count)
                dialled = count
            time.sleep(QUIET_SECONDS)
            meter = CpuMeter({"percent": node.pid})
            time.sleep(IDLE_SECONDS)
            # µs per (second × 10 000) is percent.
            idle[f"idle_percent_{count}"] = meter.per_message(1)["percent"] / IDLE_SECONDS / 10_000
            memory[f"mb_{count}"] = _resident_mb(node)
    grown = memory[f"mb_{CONNECTIONS[-1]}"] - memory[f"mb_{CONNECTIONS[0]}"]
    return Round(grown * 1000 / (CONNECTIONS[-1] - CONNECTIONS[0]), {}, memory | idle)


def _resident_mb(child: Child) -> float:
    fields = Path(f"/proc/{child.pid}/status").read_text(encoding="ascii").split("VmRSS:")[1].split()
    return int(fields[0]) * 1024 / 1e6
