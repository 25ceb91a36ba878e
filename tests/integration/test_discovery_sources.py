"""Peers by lists in the DNS and by what an operator asks for; over real kernels."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from kernel_proc.discovery.enr import Enr
from tests.support.dns_server import SignedList, dns_server
from tests.support.kernel_process import Dealer, KernelProcess, eventually, kernels, short_directory

pytestmark = pytest.mark.integration

SHARD = "--shard=0"
CLUSTER = "--cluster-id=43"
LOOPBACK = "--ip-colocation-limit=0"
DISCV5 = ("--discv5-discovery", "--discv5-udp-port=0", SHARD, CLUSTER, LOOPBACK)


def listed(dealer: Dealer) -> dict[str, dict[str, object]]:
    return {peer["peer_id"]: peer for peer in dealer.ok("peers.list")["peers"]}


def refused(directory: Path, code: int, *options: str) -> str:
    """What a kernel says that ends at its start with this exit code."""
    with ExitStack() as stack:
        kernel = KernelProcess(directory / "refused", *options)
        stack.callback(kernel.__exit__, None, None, None)
        assert kernel.launch().wait(20) == code
        return kernel.log.read_text()


def test_a_signed_list_in_the_dns_is_enough() -> None:
    with short_directory() as directory, kernels(directory, (SHARD, CLUSTER), (SHARD, CLUSTER)) as two:
        records = [kernel.info("MyENR")["MyENR"] for kernel in two]
        nodes = SignedList("nodes.example.org")
        nodes.root(nodes.branch(records), seq=7)
        with dns_server(nodes) as server:
            options = (SHARD, CLUSTER, f"--dns-addrs-name-server={server.address}")
            with KernelProcess(directory / "new", *options, f"--entry-node={nodes.url}") as new:
                dealer = new.dealer()
                wanted = {Enr.from_text(record).peer_id for record in records}
                eventually(lambda: set(listed(dealer)) >= wanted, 20)
                assert {peer["origin"] for peer in listed(dealer).values()} == {"dns"}
                status = dealer.ok("discovery.status")
                assert [(one["seq"], one["records"]) for one in status["lists"]] == [(7, 2)]
                assert status["online"]
                asked = {"url": nodes.url, "name_server": server.address}
                assert set(dealer.ok("discovery.list", asked)["enrs"]) == set(records)
                server.zone["nodes.example.org"] = "v=spf1 -all"
                assert dealer.code("discovery.list", asked) == "no_peers"
                assert dealer.code("discovery.list", {"url": "enrtree://x@y"}) == "bad_request"


def test_discv5_is_started_and_stopped_by_request() -> None:
    with (
        short_directory() as directory,
        KernelProcess(directory / "a", *DISCV5) as boot,
        KernelProcess(directory / "b", SHARD, CLUSTER, LOOPBACK, "--discv5-udp-port=0") as other,
    ):
        enr = boot.info("MyENR")["MyENR"]
        dealer = other.dealer()
        assert dealer.ok("discovery.status")["discv5"]["running"] is False
        assert Enr.from_text(other.info("MyENR")["MyENR"]).udp4 is None
        assert dealer.ok("discovery.bootnodes", {"enrs": [enr]}) == {"boot_nodes": 1}
        assert dealer.code("discovery.bootnodes", {"enrs": [enr[:-4] + "AAAA"]}) == "bad_request"
        assert dealer.ok("discovery.start") == {"running": True, "changed": True}
        assert dealer.ok("discovery.start") == {"running": True, "changed": False}
        eventually(lambda: listed(dealer), 20)
        port = other.info("MyBoundPorts")["MyBoundPorts"]["discv5Udp"]
        assert Enr.from_text(other.info("MyENR")["MyENR"]).udp4 == port != 0
        assert dealer.ok("discovery.stop") == {"running": False, "changed": True}
        assert dealer.ok("discovery.stop") == {"running": False, "changed": False}
        assert Enr.from_text(other.info("MyENR")["MyENR"]).udp4 is None

        # Who is sent away is not dialled again by itself.
        peer = boot.info("MyPeerId")["MyPeerId"]
        assert dealer.ok("peers.disconnect", {"peer_id": peer})["disconnected"]
        known = dealer.ok("peers.known")
        assert known["total"] == 1
        assert known["peers"][0]["peer_id"] == peer
        assert known["peers"][0]["retry_ms"] > 400_000

        shown = subprocess.run(
            [sys.executable, "-m", "logos_deploy", "peers", "--all", "--data-dir", str(other.directory)],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        ).stdout
        assert "known" in shown
        assert peer[-12:] in shown
        as_json = subprocess.run(
            [sys.executable, "-m", "logos_deploy", "peers", "--json", "--data-dir", str(other.directory)],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        ).stdout
        assert json.loads(as_json)["discovery"]["known"] == 1


def test_a_udp_port_that_is_taken_is_named() -> None:
    with short_directory() as directory, KernelProcess(directory / "a", *DISCV5) as first:
        port = first.info("MyBoundPorts")["MyBoundPorts"]["discv5Udp"]
        said = refused(directory, 70, "--discv5-discovery", f"--discv5-udp-port={port}")
        assert "discv5-udp-port" in said


def test_a_record_that_is_none_is_refused_at_start() -> None:
    with short_directory() as directory:
        assert "entry-node" in refused(directory, 78, "--entry-node=enr:-" + "A" * 120)
