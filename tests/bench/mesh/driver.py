"""The bench `mesh`: a network on one machine under rising load, against js-libp2p at the same load.

Every node publishes its share of the load, and every other must get each message. The load rises until one
side no longer delivers 99 % within a few seconds after the last publish, with 99 of 100 in a second: that
side's ceiling is the step before. All nodes share the machine's cores.
"""

from __future__ import annotations

import itertools
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from tests.bench.harness import BenchError, Case, Child, CpuMeter, Options, Round, percentile, result

BENCH: Final = "mesh"
NODES: Final = (6, 10)
RATES: Final = (25, 50, 100, 200, 400, 800, 1600)
"""Messages/s of all nodes together."""
SECONDS: Final = 4.0
SIZE: Final = 1024
SETTLE_SECONDS: Final = 3.0
REFERENCE: Final = "js-libp2p gossipsub on Node.js, as many nodes"
_JS: Final = Path(__file__).parents[1] / "js"
_rounds = itertools.count(1)


class Mesh:
    """So many nodes, each connected to all others and meshed."""

    def __init__(self, stack: ExitStack, name: str, command: list[str], count: int, cwd: Path | None) -> None:
        where = {} if cwd is None else {"cwd": cwd}
        self._nodes = [
            stack.enter_context(Child(f"{name} {number}", command, **where)) for number in range(count)
        ]
        known: list[str] = []
        for node in self._nodes:
            addresses = node.event("ready")["addresses"]
            node.ask("connected", cmd="connect", addresses=known)
            known.append(addresses[0])
        # Full meshes of all nodes at once need not exist; this many each do.
        for node in self._nodes:
            node.ask("meshed", cmd="mesh", peers=min(4, count - 1))

    def run(self, rate: float, seconds: float) -> Round:
        """One step of load: p99 in ms; delivery in percent; CPU µs per message and node."""
        number, count = next(_rounds), len(self._nodes)
        messages = max(2, int(rate * seconds / count))
        meter = CpuMeter({str(index): node.pid for index, node in enumerate(self._nodes)})
        for index, node in enumerate(self._nodes):
            node.send(
                cmd="publish", round=number, node=index, rate=rate / count, messages=messages, size=SIZE
            )
        sent: dict[int, int] = {}
        for node in self._nodes:
            sent.update(node.event("published")["sent"])
        took = (max(sent.values()) - min(sent.values())) / 1e9
        expected = len(sent) * (count - 1)
        delays: list[float] = []
        duplicates = 0
        end = time.monotonic() + SETTLE_SECONDS
        while True:
            for index, node in enumerate(self._nodes):
                reported = node.ask("collected", cmd="collect")
                duplicates += reported["duplicates"]
                delays += [
                    (at - sent[one]) / 1e6
                    for one, at in reported["arrivals"]
                    if one in sent and one // 1_000_000 != index
                ]
            if len(delays) >= expected or time.monotonic() > end:
                break
            time.sleep(0.2)
        if duplicates:
            raise BenchError(f"{duplicates} messages came twice")
        if not delays:
            raise BenchError("nothing came")
        cpu = meter.per_message(len(sent))
        return Round(
            percentile(delays, 0.99),
            {"node": sum(cpu.values()) / count},
            {
                "p50_ms": percentile(delays, 0.5),
                "delivered_percent": 100 * len(delays) / expected,
                "published_per_s": (len(sent) - count) / took if took else 0.0,
            },
        )


def mesh(options: Options) -> Iterator[dict[str, Any]]:
    """A line for each network and load, then one for the ceilings."""
    node = shutil.which("node")
    if node is None or not (_JS / "node_modules").is_dir():
        raise BenchError("the reference needs Node.js and `npm ci` in tests/bench/js (make node)")
    commands = {
        "ours": ([sys.executable, "-m", "tests.bench.mesh.node"], None),
        "js": ([node, "--import", "./polyfill.mjs", "mesh_node.mjs"], _JS),
    }
    for count in NODES:
        if not options.wants(f"{count} nodes"):
            continue
        ceilings: dict[str, float] = dict.fromkeys(commands, 0.0)
        # One side after the other, not in turn: two networks at once would not fit the machine's memory.
        steps: dict[str, dict[int, list[Round]]] = {}
        for side, (command, cwd) in commands.items():
            with ExitStack() as stack:
                steps[side] = {}
                network = Mesh(stack, side, command, count, cwd)
                network.run(100, 6.0)  # not measured: JavaScript is slow before its JIT has seen some
                for rate in RATES:
                    rounds = [network.run(rate, SECONDS * options.scale) for _ in range(options.runs)]
                    steps[side][rate] = rounds
                    if not all(_held(one, rate) for one in rounds):
                        break
                    ceilings[side] = rate
        for rate in steps["ours"]:
            if rate in steps["js"]:
                case = Case(BENCH, f"{count} nodes, {rate} msg/s", "ms p99", REFERENCE)
                yield result(case, steps["ours"][rate], steps["js"][rate])
        case = Case(BENCH, f"{count} nodes, ceiling", "msg/s", REFERENCE, more={"steps": list(RATES)})
        yield result(case, [Round(ceilings["ours"], {})], [Round(ceilings["js"], {})])


def _held(one: Round, rate: float) -> bool:
    return (
        one.value <= 1000
        and one.extra["delivered_percent"] >= 99
        and one.extra["published_per_s"] >= 0.9 * rate
    )
