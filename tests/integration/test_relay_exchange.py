"""Peer exchange of relay PRUNEs between kernels: a refused peer learns where else to go."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from tests.support.kernel_process import KernelProcess, eventually, short_directory
from tests.support.networks import start_in_pairs

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(120)]

TOPIC = "/waku/2/rs/42/0"
D_LOW, D_HIGH = 4, 8
COMMON = ("--cluster-id=42", "--shard=0", "--ip-colocation-limit=0", "--log-level=WARN")
ON = "--relay-peer-exchange"


def mesh(kernel: KernelProcess) -> list[str]:
    """The peers in its mesh."""
    dealer = kernel.dealer()
    peers = dealer.ok("peers.list")["peers"]
    dealer.close()
    return [peer["peer_id"] for peer in peers if TOPIC in peer.get("mesh", ())]


def origins(kernel: KernelProcess) -> dict[str, str]:
    """How it came to know its connected peers."""
    dealer = kernel.dealer()
    peers = dealer.ok("peers.list")["peers"]
    dealer.close()
    return {peer["peer_id"]: peer["origin"] for peer in peers}


def metric(kernel: KernelProcess, name: str, **labels: str) -> float:
    """One of its counters."""
    dealer = kernel.dealer()
    samples = dealer.ok("node.metrics")["metrics"]
    dealer.close()
    (value,) = (v for n, had, v in samples if (n, had) == (f"logos_delivery_{name}", labels))
    return float(value)


def peer_id(kernel: KernelProcess) -> str:
    found: str = kernel.info("MyPeerId")["MyPeerId"]
    return found


def test_a_node_that_knows_one_neighbour_learns_the_others_by_prune() -> None:
    with short_directory() as directory, ExitStack() as stack:
        hub = stack.enter_context(KernelProcess(directory / "hub", *COMMON, ON))
        entrance = f"--staticnode={hub.address()}"
        neighbours = [KernelProcess(directory / f"k{n}", *COMMON, entrance) for n in range(D_HIGH)]
        start_in_pairs(stack, neighbours)
        eventually(lambda: len(mesh(hub)) == D_HIGH, 30)
        known = {peer_id(one) for one in neighbours}
        eager = stack.enter_context(KernelProcess(directory / "eager", *COMMON, entrance, ON))
        eventually(lambda: known <= set(origins(eager)), 30)
        found = origins(eager)
        assert {found[one] for one in known} == {"prune"}
        assert found[peer_id(hub)] == "static"
        assert metric(eager, "relay_px_peers", outcome="taken") >= D_HIGH
        eventually(lambda: len(mesh(eager)) >= D_LOW, 30)
        # Without the option one hears the same and heeds nothing of it.
        deaf = stack.enter_context(KernelProcess(directory / "deaf", *COMMON, entrance))
        eventually(lambda: metric(deaf, "relay_px_ignored") >= D_HIGH)
        assert metric(deaf, "relay_px_peers", outcome="taken") == 0
        assert set(origins(deaf)) == {peer_id(hub)}
        assert metric(hub, "relay_px_given") >= 2 * D_HIGH
