"""`logos peers`, `discovery` and `doctor` about kernels that find, and do not find, each other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from logos_deploy.exits import Exit
from tests.integration.logos_node import logos
from tests.support.dns_server import SignedList, dns_server
from tests.support.kernel_process import KernelProcess, eventually, short_directory

pytestmark = pytest.mark.integration

COMMON = ("--cluster-id=46", "--shard=0", "--ip-colocation-limit=0")
DISCV5 = (*COMMON, "--discv5-discovery", "--discv5-udp-port=0")


def at(directory: Path) -> tuple[str, str]:
    return ("--data-dir", str(directory))


def doctor(directory: Path, *options: str) -> str:
    """What the doctor says beside a kernel that runs. Its ports must not matter."""
    done = logos("doctor", "--kernel-only", *at(directory), "tcp-port=0", *options)
    assert done.returncode == Exit.OK, done.stdout
    return done.stdout


def test_discv5_is_seen_stopped_started_and_given_a_node_to_begin_with() -> None:
    with (
        short_directory() as path,
        KernelProcess(path / "a", *DISCV5) as boot,
        KernelProcess(path / "b", *DISCV5) as lost,
    ):
        enr = str(boot.info("MyENR")["MyENR"])
        shown = logos("discovery", *at(boot.directory))
        assert shown.returncode == Exit.OK
        assert enr in shown.stdout
        assert f"announces      {boot.address().partition('/p2p/')[0]}" in shown.stdout
        assert "looks for      relay peers on shard 0; peers that serve store" in shown.stdout

        said = "discv5 is running but has no bootstrap node"
        assert said in logos("discovery", *at(lost.directory)).stdout
        assert said in doctor(lost.directory)

        done = logos("discovery", *at(lost.directory), "bootnodes", enr)
        assert (done.returncode, done.stdout) == (Exit.OK, "discv5 has 1 boot node\n")
        done = logos("discovery", "bootnodes", enr, "enr:foo", *at(lost.directory))
        assert (done.returncode, done.stderr) == (
            Exit.DATA,
            "logos: 'enr:foo' is not a node record: not a list\n",
        )

        dealer = lost.dealer()
        eventually(lambda: dealer.ok("peers.list")["peers"], 20)
        state = json.loads(logos("discovery", *at(lost.directory), "--json").stdout)
        assert (state["connected"], state["cluster"]) == (1, 46)
        assert state["status"]["discv5"]["verified"] == 1
        assert [finding["level"] for finding in state["findings"]] == ["ok"]
        assert "1 peer connected, 1 known; wanted: relay peers on shard 0" in doctor(lost.directory)
        listed = logos("peers", *at(lost.directory), "--long").stdout
        assert "1 peer connected" in listed
        assert str(boot.info("MyPeerId")["MyPeerId"]) in listed
        assert "discv5" in listed

        for words, text in (
            (("stop",), "discv5 does not run\n"),
            (("stop",), "discv5 does not run, as before\n"),
            (("start", "--json"), '{"running": true, "changed": true}\n'),
        ):
            done = logos("discovery", *words, *at(lost.directory))
            assert (done.returncode, done.stdout) == (Exit.OK, text), done.stderr


def test_a_node_of_another_cluster_is_warned() -> None:
    with (
        short_directory() as path,
        KernelProcess(path / "a", *DISCV5) as boot,
        KernelProcess(
            path / "b",
            *("--cluster-id=47", "--shard=0", "--ip-colocation-limit=0"),
            *("--discv5-discovery", "--discv5-udp-port=0"),
            f"--discv5-bootstrap-node={boot.info('MyENR')['MyENR']}",
            f"--staticnode={boot.address()}",
        ) as stranger,
    ):
        dealer = stranger.dealer()
        eventually(lambda: dealer.ok("discovery.status")["discv5"]["verified"], 20)

        def said() -> bool:
            text = doctor(stranger.directory)
            return "peers of another network were found" in text and "is not connected" in text

        eventually(said, 30)
        everybody = logos("peers", "--all", *at(stranger.directory)).stdout
        assert f"staticnode {boot.address()} is not connected" in everybody


def test_a_list_is_read_by_the_node() -> None:
    with short_directory() as path, KernelProcess(path / "a", *COMMON) as kernel:
        enr = str(kernel.info("MyENR")["MyENR"])
        nodes = SignedList("nodes.example.org")
        nodes.root(nodes.branch([enr]), seq=3)
        with dns_server(nodes) as server:
            words = (*at(kernel.directory), "--name-server", server.address)
            done = logos("discovery", "list", nodes.url, *words)
            assert (done.returncode, done.stdout) == (Exit.OK, f"{enr}\n")
            assert "version 3: 1 node" in done.stderr
            found = json.loads(logos("discovery", "list", nodes.url, *words, "--json").stdout)
            assert (found["seq"], found["complete"]) == (3, True)
            server.zone["nodes.example.org"] = "v=spf1 -all"
            gone = logos("discovery", "list", nodes.url, *words)
            assert gone.returncode == Exit.FAILED
            assert gone.stderr.startswith("logos: the list cannot be read: ")
        assert logos("discovery", "list", "enrtree://x", *at(kernel.directory)).returncode == Exit.DATA


def test_a_configuration_without_a_first_peer_is_reported_before_the_start() -> None:
    with short_directory() as path:
        said = doctor(path / "d", "discv5-discovery=true", "discv5-udp-port=0")
        assert "discv5 is on but has no bootstrap node" in said
        assert "begins with 1 configured peer" in doctor(
            path / "d",
            "staticnode=/ip4/127.0.0.1/tcp/9/p2p/16Uiu2HAm9p9kdzmw2D5BDPSn8YfghzD3xm4iN4DYYJzZ7iTGNvcE",
        )
