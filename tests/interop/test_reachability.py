"""AutoNAT and circuit relay with go-libp2p, both sides of each, between public addresses in namespaces."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.interop.go_host import GoHost, build_go_host
from tests.interop.inbox import CommandError
from tests.support.kernel_process import KernelProcess, eventually, short_directory
from tests.support.places import Places, places_or_skip

pytestmark = [
    pytest.mark.interop,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        os.environ.get("CI") != "true" and not (shutil.which("go") and shutil.which("nft")),
        reason="neither go-libp2p nor a router can be made: go or nft is not installed",
    ),
]

COMMON = ("--cluster-id=46", "--shard=0", "--discv5-udp-port=0", "--nat=none", "--log-level=INFO")
QUICK = {
    "kernel_proc.reachability.autonat:PERIOD": 0.3,
    "kernel_proc.reachability.circuit:PERIOD": 0.3,
    "kernel_proc.reachability.autonat_server:DIAL_TIMEOUT": 0.5,
}


@pytest.fixture(name="program", scope="module")
def _program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_go_host(tmp_path_factory.mktemp("go") / "reach")


@pytest.fixture(name="directory")
def _directory() -> Iterator[Path]:
    with short_directory() as directory:
        yield directory


@pytest.fixture(name="lab")
def _lab() -> Iterator[Places]:
    with places_or_skip() as lab:
        yield lab


def kernel(lab: Places, directory: Path, home: str, *options: str) -> KernelProcess:
    every = (*COMMON, f"--listen-address={home}", *options)
    return KernelProcess(directory / home, *every, through=lab.add(home), constants=QUICK)


def reachability(node: KernelProcess) -> dict[str, Any]:
    found: dict[str, Any] = node.info("Reachability")["Reachability"]
    return found


def test_go_dials_us_back_and_we_dial_it(lab: Places, directory: Path, program: Path) -> None:
    with ExitStack() as stack:
        go = stack.enter_context(GoHost(program, "/ip4/20.1.0.1/tcp/4001", through=lab.add("20.1.0.1")))
        node = stack.enter_context(kernel(lab, directory, "30.1.0.1", f"--staticnode={go.address}"))
        eventually(lambda: reachability(node)["autonat"] == "public", 30)
        go.ask("dialback", node.address())
        hidden = GoHost(program, "/ip4/127.0.0.1/tcp/4001", through=lab.add("20.2.0.1"))
        stack.enter_context(hidden)
        hidden.ask("dial", node.address())
        with pytest.raises(CommandError, match=r"dial failed|no dialable"):
            hidden.ask("dialback", node.address())


def test_a_node_behind_a_router_knows_that_it_is_and_is_reached_through_a_relay(
    lab: Places, directory: Path, program: Path
) -> None:
    router = lab.add_router("25.9.0.1", "192.168.7.1")
    with ExitStack() as stack:
        outside = [stack.enter_context(kernel(lab, directory, f"20.{number}.0.1")) for number in (1, 2, 3)]
        relay = stack.enter_context(GoHost(program, "/ip4/20.4.0.1/tcp/4001", through=lab.add("20.4.0.1")))
        go = stack.enter_context(GoHost(program, "/ip4/20.5.0.1/tcp/4001", through=lab.add("20.5.0.1")))
        known = [
            f"--staticnode={address}" for address in (*(one.address() for one in outside), relay.address)
        ]
        options = (*COMMON, "--listen-address=0.0.0.0", "--relay-client", *known)
        place = lab.add_behind(router, "192.168.7.2")
        node = KernelProcess(directory / "node", *options, through=place, constants=QUICK)
        stack.enter_context(node)
        eventually(lambda: reachability(node)["autonat"] == "private", 60)
        eventually(lambda: reachability(node)["relays"] == [relay.peer_id])

        # go-libp2p and one of ours dial it through the relay.
        peer_id = node.info("MyPeerId")["MyPeerId"]
        address = f"{relay.address}/p2p-circuit/p2p/{peer_id}"
        assert f"{relay.address}/p2p-circuit" in reachability(node)["announced"]
        go.ask("dial", address)
        assert any("p2p-circuit" in one for one in go.connected()[peer_id])
        ours = stack.enter_context(kernel(lab, directory, "20.6.0.1"))
        (result,) = ours.dealer().ok("peers.connect", {"addresses": [address]})["results"]
        assert (result["peer_id"], result.get("error")) == (peer_id, None)

        # A configured peer behind a relay is dialled as any other.
        static = stack.enter_context(kernel(lab, directory, "20.7.0.1", f"--staticnode={address}"))
        eventually(lambda: peer_id in [one["peer_id"] for one in static.dealer().ok("peers.list")["peers"]])

        # And it dials go-libp2p through the relay.
        go.ask("reserve", relay.address)
        (result,) = ours.dealer().ok(
            "peers.connect", {"addresses": [f"{relay.address}/p2p-circuit/p2p/{go.peer_id}"]}
        )["results"]
        assert (result["peer_id"], result.get("error")) == (go.peer_id, None)
