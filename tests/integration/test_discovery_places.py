"""Kernels with IP addresses of their own: limits by address hold, and a quorum says where a node is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from kernel_proc.discovery.enr import Enr
from tests.support.kernel_process import KernelProcess, eventually, short_directory
from tests.support.networks import GONE, complaints, start_in_pairs, wait_for_mesh
from tests.support.places import Places, places_or_skip

pytestmark = pytest.mark.integration

COMMON = ("--cluster-id=46", "--shard=0", "--discv5-discovery", "--log-level=WARN")
LIMIT = 5
"""Connections from one address, unless an operator says otherwise."""
CROWD = 8


@pytest.fixture(name="lab")
def _lab() -> Iterator[Places]:
    with places_or_skip() as lab:
        yield lab


def addresses(kernel: KernelProcess) -> list[str]:
    """The IP addresses of its connected peers."""
    dealer = kernel.dealer()
    found = [peer["address"].split("/")[2] for peer in dealer.ok("peers.list")["peers"]]
    dealer.close()
    return found


def record(kernel: KernelProcess) -> Enr:
    return Enr.from_text(kernel.info("MyENR")["MyENR"])


@pytest.mark.timeout(180)
def test_one_address_fills_neither_slots_nor_tables(lab: Places) -> None:
    with short_directory() as directory, ExitStack() as stack:
        homes = [f"20.{number}.0.1" for number in range(1, 7)]
        honest = [
            KernelProcess(directory / home, *COMMON, f"--listen-address={home}", through=lab.add(home))
            for home in homes
        ]
        victim, rest = honest[0], honest[1:]
        stack.enter_context(victim)
        entry = f"--entry-node={victim.info('MyENR')['MyENR']}"
        crowd_home = "30.1.0.1"
        crowd_place = lab.add(crowd_home)
        crowd = [
            KernelProcess(
                directory / f"c{number}",
                *COMMON,
                f"--listen-address={crowd_home}",
                "--discv5-udp-port=0",
                entry,
                through=crowd_place,
            )
            for number in range(CROWD)
        ]
        start_in_pairs(stack, crowd)  # they are there before anybody else
        eventually(lambda: len(addresses(victim)) >= LIMIT, 30)
        for kernel in rest:
            kernel.options = (*kernel.options, entry)
        start_in_pairs(stack, rest)

        took = wait_for_mesh(honest, 60)
        print(f"healthy {took:.1f} s after the last was ready, beside a crowd of {CROWD}")
        for kernel in honest:
            others = set(homes) - {kernel.directory.name}
            eventually(lambda kernel=kernel, others=others: others <= set(addresses(kernel)), 60)
            assert addresses(kernel).count(crowd_home) <= LIMIT, "whichever side dialled"
        dealer = victim.dealer()
        known = dealer.ok("peers.known", {"limit": 100})["peers"]
        of_crowd = [peer for peer in known if peer["addresses"][0].startswith(f"/ip4/{crowd_home}/")]
        assert len(of_crowd) <= 2 * LIMIT
        for kernel in (*honest, *crowd):
            assert not complaints(kernel.log, GONE)


@pytest.mark.timeout(120)
def test_a_node_behind_a_router_learns_its_address_from_three_others(lab: Places) -> None:
    inner, outer = "10.9.9.9", "25.9.0.1"
    with short_directory() as directory, ExitStack() as stack:
        homes = [f"20.{number}.0.1" for number in range(1, 5)]
        others = [
            KernelProcess(directory / home, *COMMON, f"--listen-address={home}", through=lab.add(home))
            for home in homes
        ]
        start_in_pairs(stack, others[:2])
        entries = [f"--entry-node={kernel.info('MyENR')['MyENR']}" for kernel in others[:2]]
        node = KernelProcess(
            directory / "n",
            *COMMON,
            "--listen-address=0.0.0.0",
            *entries,
            through=lab.add(inner, seen_as=outer),
        )
        stack.enter_context(node)
        eventually(lambda: len(addresses(node)) == 2, 20)
        seen = [one for kernel in others[:2] for one in addresses(kernel)]
        assert seen.count(outer) == 2, "that is how both see it"
        assert record(node).ip4 == inner, "two may be wrong, or lie"

        for kernel in others[2:]:
            kernel.options = (*kernel.options, entries[0])
        stack.enter_context(others[2])
        eventually(lambda: record(node).ip4 == outer, 40)
        announced = node.dealer().ok("discovery.status")["addresses"]
        assert announced[0].startswith(f"/ip4/{outer}/tcp/")

        # A newcomer finds it there, whichever side dials first.
        stack.enter_context(others[3])
        eventually(lambda: outer in addresses(others[3]), 40)
        for kernel in (node, *others):
            assert not complaints(kernel.log, GONE)
