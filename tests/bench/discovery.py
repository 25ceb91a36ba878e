"""The bench `discovery`: how long kernels that know one node take to find each other, and what it costs them.

Times are seconds from the last node being ready, until every node has what the case says. The reference is
what is asked for: 60 s to a healthy mesh; and for the idle traffic nwaku's published 8 KB/s for each node of
a network of 100.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, Final

from tests.bench.harness import BenchError, Case, Options, Round, result
from tests.support.kernel_process import Dealer, KernelProcess, short_directory

BENCH: Final = "discovery"
SIZES: Final = (5, 10, 20)
LIMIT: Final = 60.0
D_LOW: Final = 4
"""Mesh peers with which a shard is sufficiently healthy."""
CANDIDATES: Final = 12
"""Connected peers that the peer manager wants for each shard: D for the mesh and D_lazy to gossip with."""
IDLE_SECONDS: Final = 20.0
OPTIONS: Final = ("--shard=0", "--discv5-discovery", "--discv5-udp-port=0", "--ip-colocation-limit=0")
_MARKS: Final = ("first peer", "D_low mesh peers", "12 connected peers")
_WANTED: Final = Round(LIMIT, {})
_TRAFFIC: Final = Round(8.0, {})


def discovery(options: Options) -> Iterator[dict[str, Any]]:
    """The lines of all sizes."""
    for size in SIZES:
        names = [f"{size} nodes, {mark}" for mark in _MARKS]
        idle = f"{size} nodes, idle discv5 traffic"
        if not any(map(options.wants, (*names, idle))):
            continue
        rounds = [_run(size, IDLE_SECONDS * options.scale) for _ in range(options.runs)]
        for number, name in enumerate(names):
            case = Case(
                BENCH, name, "s", "the limit", f"at most {LIMIT:.0f} s", lambda line: line["ours"] <= LIMIT
            )
            if options.wants(name):
                yield result(case, [Round(each[number], {}) for each in rounds], [_WANTED])
        if options.wants(idle):
            case = Case(BENCH, idle, "KB/s", "nwaku with discv5, published")
            yield result(case, [Round(each[-1], {}) for each in rounds], [_TRAFFIC])


def _run(size: int, idle: float) -> tuple[float, ...]:
    """Seconds to each of the marks, then KB/s of one node that has all it wants."""
    with ExitStack() as stack:
        directory = stack.enter_context(short_directory())
        first = stack.enter_context(KernelProcess(directory / "k0", *OPTIONS))
        entry = f"--entry-node={first.info('MyENR')['MyENR']}"
        rest = [KernelProcess(directory / f"k{number}", *OPTIONS, entry) for number in range(1, size)]
        # Two at a time: as many processes as there are processors start no slower than all at once.
        for kernel in rest:
            stack.callback(kernel.__exit__, None, None, None)
        for at in range(0, len(rest), 2):
            for kernel in rest[at : at + 2]:
                kernel.launch()
            for kernel in rest[at : at + 2]:
                kernel.wait_ready()
        began = time.monotonic()
        dealers = [kernel.dealer() for kernel in (first, *rest)]
        marks: tuple[Callable[[Dealer], bool], ...] = (
            lambda dealer: bool(dealer.ok("peers.list")["peers"]),
            lambda dealer: _mesh(dealer) >= min(D_LOW, size - 1),
            lambda dealer: len(dealer.ok("peers.list")["peers"]) >= min(CANDIDATES, size - 1),
        )
        times = tuple(_until(mark, dealers, began) for mark in marks)
        time.sleep(1.5 * idle)  # tables fill and new nodes are looked at: that is not idle yet
        before, since = sum(map(_bytes, dealers)), time.monotonic()
        time.sleep(idle)
        traffic = (sum(map(_bytes, dealers)) - before) / (time.monotonic() - since) / size / 1000
        return (*times, traffic)


def _mesh(dealer: Dealer) -> int:
    return int(dealer.ok("node.health")["shards"][0]["mesh_peers"])


def _bytes(dealer: Dealer) -> float:
    """UDP payload in both directions."""
    metrics = dealer.ok("node.metrics")["metrics"]
    return sum(
        float(value)
        for name, _, value in metrics
        if name.endswith(("discv5_bytes_sent", "discv5_bytes_received"))
    )


def _until(mark: Callable[[Dealer], bool], dealers: list[Dealer], began: float) -> float:
    waiting = list(dealers)
    while waiting := [dealer for dealer in waiting if not mark(dealer)]:
        if time.monotonic() - began > 2 * LIMIT:
            raise BenchError(f"{len(waiting)} nodes are not there after {2 * LIMIT:.0f} s")
        time.sleep(0.05)
    return time.monotonic() - began
