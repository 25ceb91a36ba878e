"""Networks of kernels in which each knows one node only: the entrance, named in one of the ways there are."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from tests.support.dns_server import DnsServer, SignedList
from tests.support.kernel_process import KernelProcess, eventually

DOMAIN: Final = "nodes.example.org"
PAIR: Final = 2
"""Kernels started at once: more of them only wait for each other's processor."""
GONE: Final = ("peer unreachable", "cannot read DNS node list")
"""What a kernel rightly warns of when the entrance or its DNS server is gone."""
_FINE: Final = frozenset({"TRC", "DBG", "INF", "NTC"})


class Entrance:
    """The node that all others know: by its record, by a signed list in the DNS, by its address."""

    def __init__(self, kernel: KernelProcess, server: DnsServer) -> None:
        """`kernel` runs with discv5; its list is put on `server`."""
        facts = kernel.info("MyENR", "MyMultiaddresses")
        nodes = SignedList(DOMAIN)
        nodes.root(nodes.branch([facts["MyENR"]]))
        server.publish(nodes)
        self.ways: tuple[tuple[str, ...], ...] = (
            (f"--discv5-bootstrap-node={facts['MyENR']}",),
            (f"--dns-discovery-url={nodes.url}", f"--dns-addrs-name-server={server.address}"),
            (f"--entry-node={facts['MyMultiaddresses'][0]}",),
            (f"--entry-node={facts['MyENR']}",),
            (f"--entry-node={nodes.url}", f"--dns-addrs-name-server={server.address}"),
            (f"--entry-node={facts['MyMultiaddresses'][0]}",),
        )
        """By record, by list, by address; and those again with the other option that takes them."""

    def options(self, number: int) -> tuple[str, ...]:
        """The peers that the member of this number is given: a third of the members each way."""
        return self.ways[number % len(self.ways)]


def launched(stack: ExitStack, kernel: KernelProcess) -> KernelProcess:
    """Start it without waiting; it ends with the stack."""
    kernel.launch()
    stack.callback(kernel.__exit__, None, None, None)
    return kernel


def start_in_pairs(stack: ExitStack, kernels: Sequence[KernelProcess]) -> None:
    """Start kernels, or start them again, and wait until each is ready."""
    for at in range(0, len(kernels), PAIR):
        pair = [launched(stack, kernel) for kernel in kernels[at : at + PAIR]]
        for kernel in pair:
            kernel.wait_ready()


def healthy(kernel: KernelProcess) -> bool:
    """Whether its only shard has the mesh that it wants."""
    dealer = kernel.dealer()
    try:
        return bool(dealer.ok("node.health")["shards"][0]["health"] == "SUFFICIENTLY_HEALTHY")
    finally:
        dealer.close()


def wait_for_mesh(kernels: Sequence[KernelProcess], seconds: float) -> float:
    """Wait until all are healthy at the same time; the seconds that took. AssertionError after `seconds`."""
    began = time.monotonic()
    eventually(lambda: all(map(healthy, kernels)), seconds)
    return time.monotonic() - began


def complaints(log: Path, expected: Collection[str] = ()) -> list[str]:
    """The lines of a process's log from warnings on, tracebacks too, but for those with an expected text and
    those on the loop's lag: the machine's load decides on these."""
    lines = log.read_text(errors="replace").splitlines()
    worse = [line for line in lines if not _FINE.intersection(line.split(" ", 2)[1:2])]
    return [line for line in worse if not any(text in line for text in (*expected, "event loop lagging"))]
