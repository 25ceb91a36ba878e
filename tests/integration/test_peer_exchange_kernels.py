"""Peer exchange between real kernels. Without discovery a node can only share its own record."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernel_proc.discovery.enr import Enr
from tests.support.kernel_process import KernelProcess, eventually, short_directory

pytestmark = pytest.mark.integration


def test_asked_and_answered_within_limits() -> None:
    with short_directory() as directory:
        _asked_and_answered(directory)


def _asked_and_answered(directory: Path) -> None:
    with (
        KernelProcess(directory / "s", "--rate-limit=px:2/1h") as service,
        KernelProcess(directory / "c", "--peer-exchange=false") as client,
    ):
        dealer = client.dealer()
        assert dealer.code("peer_exchange.request") == "no_peers"
        peer = service.info("MyPeerId")["MyPeerId"]
        named = {"count": 60, "peer": service.address()}
        own = Enr.from_text(service.info("MyENR")["MyENR"]).raw
        assert dealer.ok("peer_exchange.request", named) == {"peer": peer, "enrs": [own]}

        def chosen() -> bool:
            return dealer.ask("peer_exchange.request", {"count": 1}).error is None

        eventually(chosen)  # once identify has reported what it serves
        assert dealer.code("peer_exchange.request", named) == "rate_limited"
        for count in (0, 61):
            assert dealer.code("peer_exchange.request", {"count": count}) == "bad_request"
        health = {p["name"]: p["state"] for p in service.dealer().ok("node.health")["protocols"]}
        assert health["Peer Exchange"] == "READY"
        mine = {p["name"]: p["state"] for p in dealer.ok("node.health")["protocols"]}
        assert mine["Peer Exchange"] == "NOT_MOUNTED"
