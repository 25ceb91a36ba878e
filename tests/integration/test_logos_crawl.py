"""`logos crawl` over a network of kernels that know one node each."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from logos_deploy.exits import Exit
from tests.integration.logos_node import logos
from tests.support.dns_server import SignedList, dns_server
from tests.support.kernel_process import KernelProcess, eventually, short_directory
from tests.support.networks import start_in_pairs

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(300)]

COMMON = (
    "--num-shards-in-network=0",
    "--discv5-discovery",
    "--discv5-udp-port=0",
    "--ip-colocation-limit=0",
    "--log-level=WARN",
)
OURS = ("--cluster-id=49", *COMMON)
STRANGER = "16Uiu2HAm9p9kdzmw2D5BDPSn8YfghzD3xm4iN4DYYJzZ7iTGNvcE"
LOOPBACK = ("--listen-address=127.0.0.1", "--quiet")


@dataclass(frozen=True)
class Network:
    """Twelve kernels: nine on shard 0 (two of them stores, the first one of another agent), two on shard 1,
    one of another cluster in the same discv5 network."""

    kernels: list[KernelProcess]
    bootstrap: str
    found: dict[str, Any]
    """The first crawl: the kernels of later ones stay in the tables of these when they are gone."""
    textfile: Path


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with short_directory() as directory, ExitStack() as stack:
        first = KernelProcess(directory / "k0", *OURS, "--shard=0", "--agent-string=first", "--store=true")
        stack.enter_context(first)
        bootstrap = str(first.info("MyENR")["MyENR"])
        kinds = [("--shard=0", "--store=true"), *[("--shard=0",)] * 7, *[("--shard=1",)] * 2]
        rest = [
            KernelProcess(directory / f"k{number}", *OURS, *options, f"--discv5-bootstrap-node={bootstrap}")
            for number, options in enumerate(kinds, 1)
        ]
        rest.append(
            KernelProcess(
                directory / "other",
                "--cluster-id=50",
                "--shard=3",
                *COMMON,
                f"--discv5-bootstrap-node={bootstrap}",
            )
        )
        start_in_pairs(stack, rest)
        kernels = [first, *rest]
        # each has put itself into the table of another
        eventually(lambda: all(verified(kernel) for kernel in rest), 60)
        textfile = directory / "crawl.prom"
        found = crawl(f"--bootstrap={bootstrap}", f"--prometheus={textfile}")
        yield Network(kernels, bootstrap, found, textfile)


def verified(kernel: KernelProcess) -> int:
    dealer = kernel.dealer()
    try:
        return int(dealer.ok("discovery.status")["discv5"]["verified"])
    finally:
        dealer.close()


def crawl(*arguments: str, code: Exit = Exit.OK) -> dict[str, Any]:
    done = logos("crawl", "--cluster-id=49", *arguments, *LOOPBACK, "--json", timeout=120)
    assert done.returncode == code, done.stderr + done.stdout
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_every_node_is_found_and_counted(network: Network) -> None:
    found = network.found
    peers = {kernel.info("MyPeerId")["MyPeerId"] for kernel in network.kernels}
    assert {node["peer_id"] for node in found["list"]} == peers
    assert (found["complete"], found["nodes"], found["cut_off"]) == (True, 12, "")
    counts = found["counts"]
    assert counts["reachability"] == {"libp2p": 11, "discv5 only": 1}, "the other cluster is not dialled"
    assert counts["cluster"] == {"49": 11, "50": 1}
    assert counts["shard"] == {"49/0": 9, "49/1": 2, "50/3": 1}
    assert (counts["capability"]["relay"], counts["capability"]["store"]) == (12, 2)
    assert counts["agent"].pop("first") == 1
    assert sum(counts["agent"].values()) == 10
    assert counts["protocol"]["/vac/waku/store-query/3.0.0"] == 2
    assert counts["protocol"]["/vac/waku/metadata/1.0.0"] == 11
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(network.textfile.read_text())
        for sample in family.samples
    }
    assert samples["logos_crawl_nodes",] == 12
    assert samples["logos_crawl_complete",] == 1
    assert samples["logos_crawl_nodes_by_shard", "49/1"] == 2
    assert samples["logos_crawl_nodes_by_agent", "first"] == 1


def test_an_address_or_a_signed_list_is_enough_to_begin_with(network: Network) -> None:
    found = crawl(f"--bootstrap={network.kernels[0].address()}")
    assert answered(found) == 12, "peer exchange names nodes, discv5 the rest"
    with dns_server() as server:
        nodes = SignedList("nodes.example.org")
        nodes.root(nodes.branch([network.kernels[3].info("MyENR")["MyENR"]]))
        server.publish(nodes)
        found = crawl(f"--bootstrap={nodes.url}", f"--name-server={server.address}")
    assert answered(found) == 12


def answered(found: dict[str, Any]) -> int:
    """The nodes that answered: the kernel of an earlier crawl is still in tables, and does not."""
    counts: dict[str, int] = found["counts"]["reachability"]
    return sum(number for reach, number in counts.items() if reach != "none")


def test_limits_end_it_and_are_reported(network: Network) -> None:
    found = crawl(f"--bootstrap={network.bootstrap}", "--limit=5", code=Exit.UNDECIDED)
    assert (found["nodes"], found["complete"], found["cut_off"]) == (5, False, "--limit=5")
    arguments = (f"--bootstrap={network.bootstrap}", "--cluster-id=49", *LOOPBACK)
    done = logos("crawl", *arguments, "--max-seconds=0.01")
    assert "ended by --max-seconds=0.01: there may be more nodes" in done.stdout


def test_nodes_that_are_gone_and_what_is_none() -> None:
    with short_directory() as directory, KernelProcess(directory / "k", *OURS, "--shard=0") as gone:
        enr = str(gone.info("MyENR")["MyENR"])
    with closing(socket.socket()) as held:
        held.bind(("127.0.0.1", 0))  # bound, but it does not listen
        address = f"/ip4/127.0.0.1/tcp/{held.getsockname()[1]}/p2p/{STRANGER}"
        found = crawl(f"--bootstrap={enr}", f"--bootstrap={address}", code=Exit.UNAVAILABLE)
    assert found["counts"]["reachability"] == {"none": 2}
    assert all(node["why"] for node in found["list"])
    for bad in ("tea", "/ip4/127.0.0.1/tcp/1", enr[:-4] + "AAAA"):
        assert logos("crawl", "--cluster-id=49", f"--bootstrap={bad}", *LOOPBACK).returncode == Exit.DATA
    for arguments in ((), ("--preset=twn", "--cluster-id=1"), ("--cluster-id=49",)):
        assert logos("crawl", *arguments).returncode == Exit.USAGE
