"""The bench `relay`: node to node, against js-libp2p gossipsub in the same layout."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final

from tests.bench.harness import BenchError, Case, Child, Options, Round, alternate, kib, result

__all__ = ["NodePair", "relay"]

BENCH: Final = "relay"
SIZES: Final = {150: 25_000, 1024: 20_000, 14 * 1024: 8_000, 100 * 1024: 1_500}
"""Payload size → messages of a run."""
WINDOW_MESSAGES: Final = 1024
WINDOW_BYTES: Final = 4 << 20
OUR_WARM_UP: Final = 1_000
JS_WARM_UP: Final = 10_000
"""Its first thousands run at half speed, before the JIT."""
WARM_UP_BYTES: Final = 128 << 20

_JS: Final = Path(__file__).parents[1] / "js"


class NodePair:
    """A publisher and a receiver that mesh with each other. Both sides of the bench obey the same commands
    (tests/bench/js/relay_node.mjs says which)."""

    def __init__(self, stack: ExitStack, name: str, command: list[str], cwd: Path | None = None) -> None:
        def start(role: str) -> Child:
            arguments = [*command, "--role", role]
            where = {} if cwd is None else {"cwd": cwd}
            return stack.enter_context(Child(f"{name} {role}", arguments, **where))

        self._receiver, self._publisher = start("receiver"), start("publisher")
        ready = self._receiver.event("ready")
        self._publisher.event("ready")
        self._publisher.ask(
            "connected", cmd="connect", address=ready["addresses"][0], ackPort=ready["ackPort"]
        )
        self._rounds = 0

    def run(self, size: int, messages: int) -> Round:
        """One round: messages/s, and CPU of both processes."""
        self._rounds += 1
        number, window = self._rounds, max(1, min(WINDOW_MESSAGES, WINDOW_BYTES // size))
        self._receiver.ask(
            "expecting", cmd="expect", round=number, messages=messages, ackEvery=max(1, window // 8)
        )
        self._publisher.send(cmd="publish", round=number, messages=messages, size=size, window=window)
        received = self._receiver.event("received")
        if received["lost"] or received["received"] != messages:
            raise BenchError(f"{messages} messages were sent, the receiver says {received}")
        published = self._publisher.event("published")
        seconds = (received["last_ns"] - published["start_ns"]) / 1e9
        cpu = {
            "publisher": published["cpu_us"] / messages,
            "receiver": received["cpu_us"] / messages,
        }
        return Round(messages / seconds, cpu | {"both": sum(cpu.values())})


def _reference_name() -> str:
    versions = json.loads((_JS / "package.json").read_text(encoding="utf-8"))["dependencies"]
    return f"js-libp2p gossipsub {versions['@libp2p/gossipsub']} on Node.js"


def relay(options: Options) -> Iterator[dict[str, Any]]:
    """Messages/s and CPU per message by size."""
    node = shutil.which("node")
    if node is None or not (_JS / "node_modules").is_dir():
        raise BenchError("the reference needs Node.js and `npm ci` in tests/bench/js (make node)")
    reference = _reference_name()
    for size, messages in SIZES.items():
        if options.wants(kib(size)):
            count = options.count(messages)
            yield _line(size, count, reference, _rounds(options, node, size, count))


def _rounds(options: Options, node: str, size: int, messages: int) -> list[list[Round]]:
    with ExitStack() as stack:
        ours = NodePair(stack, "ours", [sys.executable, "-m", "tests.bench.relay.node"])
        js = NodePair(stack, "js", [node, "--import", "./polyfill.mjs", "relay_node.mjs"], cwd=_JS)
        ours.run(size, min(OUR_WARM_UP, messages))  # not measured
        js.run(size, options.count(min(JS_WARM_UP, WARM_UP_BYTES // size)))
        return alternate(options.runs, partial(ours.run, size, messages), partial(js.run, size, messages))


def _line(size: int, messages: int, reference: str, rounds: list[list[Round]]) -> dict[str, Any]:
    case = Case(BENCH, kib(size), "msg/s", reference, more={"messages": messages})
    line = result(case, *rounds)
    line["cpu_ratio"] = {
        process: round(line["cpu_us"][process] / line["reference_cpu_us"][process], 3)
        for process in line["cpu_us"]
    }
    if size == 1024:
        line["target"] = "ratio ≥ 3, cpu_ratio ≤ 0.5"
        line["reached"] = line["ratio"] >= 3 and max(line["cpu_ratio"].values()) <= 0.5
    return line
