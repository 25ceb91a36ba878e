"""A kernel behind a router, with the real miniupnpd on it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kernel_proc.discovery.enr import Enr
from tests.support.kernel_process import KernelProcess, eventually, short_directory
from tests.support.nat_router import mappings, miniupnpd
from tests.support.places import Places, Router, places_or_skip

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        os.environ.get("CI") != "true" and not (shutil.which("miniupnpd") and shutil.which("nft")),
        reason="no router can be made: miniupnpd or nft is not installed",
    ),
]

COMMON = ("--cluster-id=46", "--shard=0", "--discv5-udp-port=0", "--discv5-discovery", "--log-level=INFO")
QUICK = {
    "kernel_proc.nat.service:REFRESH": 0.3,
    "kernel_proc.nat.service:SEARCH": 0.3,
    "kernel_proc.nat.upnp:_DISCOVERY_MS": 300,
}
OUTSIDE = "25.9.0.1"


@pytest.fixture(name="directory")
def _directory() -> Iterator[Path]:
    with short_directory() as directory:
        yield directory


@pytest.fixture(name="lab")
def _lab() -> Iterator[Places]:
    with places_or_skip() as lab:
        yield lab


@pytest.fixture(name="router")
def _router(lab: Places) -> Router:
    return lab.add_router(OUTSIDE, "192.168.7.1")


def behind(lab: Places, router: Router, directory: Path, *options: str) -> KernelProcess:
    place = lab.add_behind(router, "192.168.7.2")
    every = (*COMMON, "--listen-address=0.0.0.0", *options)
    return KernelProcess(directory / "node", *every, through=place, constants=QUICK)


def record(kernel: KernelProcess) -> Enr:
    return Enr.from_text(kernel.info("MyENR")["MyENR"])


def mapping(kernel: KernelProcess) -> dict[str, Any]:
    found: dict[str, Any] = kernel.info("Reachability")["Reachability"]["mapping"]
    return found


@pytest.mark.parametrize("kind", ["upnp", "pmp"])
@pytest.mark.timeout(60)
def test_ports_are_mapped_renewed_and_removed(
    lab: Places, router: Router, directory: Path, kind: str
) -> None:
    node = behind(lab, router, directory, f"--nat={kind}")
    with miniupnpd(router, directory, upnp=kind == "upnp", pmp=kind == "pmp"), node:
        eventually(lambda: record(node).ip4 == OUTSIDE)
        assert mapping(node)["by"] == kind
        announced, ports = record(node), node.info("MyBoundPorts")["MyBoundPorts"]
        assert (announced.tcp4, announced.udp4) == (ports["tcp"], ports["discv5Udp"])

        static = f"--staticnode=/ip4/{OUTSIDE}/tcp/{announced.tcp4}/p2p/{node.info('MyPeerId')['MyPeerId']}"
        home = "20.1.0.1"
        with KernelProcess(
            directory / "other", *COMMON, f"--listen-address={home}", static, through=lab.add(home)
        ):
            eventually(lambda: node.dealer().ok("peers.list")["peers"])

        # The provider gives the router another address.
        router.run("ip", "address", "del", f"{OUTSIDE}/32", "dev", router.wan)
        router.run("ip", "address", "add", "25.9.0.77/32", "dev", router.wan)
        eventually(lambda: record(node).ip4 == "25.9.0.77")

        assert mappings(router).count("192.168.7.2") == 2
        assert node.stop() == 0
        assert "192.168.7.2" not in mappings(router)


@pytest.mark.timeout(60)
def test_a_router_that_restarts_and_forgets_is_asked_again(
    lab: Places, router: Router, directory: Path
) -> None:
    with behind(lab, router, directory, "--nat=any") as node:
        eventually(lambda: mapping(node)["error"])  # there is no server yet; the node is ready without
        assert record(node).ip4 == "192.168.7.2"
        for _ in range(2):
            with miniupnpd(router, directory, upnp=False):
                eventually(lambda: "192.168.7.2" in mappings(router), 30)
                eventually(lambda: mapping(node)["by"] == "pmp" and mapping(node)["ip"] == OUTSIDE)
        node.stop()


@pytest.mark.timeout(60)
def test_a_port_that_is_taken_is_mapped_to_another(lab: Places, router: Router, directory: Path) -> None:
    first = behind(lab, router, directory, "--nat=upnp", "--tcp-port=60000")
    place = lab.add_behind(router, "192.168.7.3")
    options = (*COMMON, "--listen-address=0.0.0.0", "--nat=upnp", "--tcp-port=60000")
    second = KernelProcess(directory / "second", *options, through=place, constants=QUICK)
    with miniupnpd(router, directory, pmp=False), first, second:
        eventually(lambda: record(first).ip4 == record(second).ip4 == OUTSIDE)
        assert {record(first).tcp4, record(second).tcp4} > {60000}
        assert mappings(router).count("dnat ip to 192.168.7.3:60000") == 1


@pytest.mark.timeout(60)
def test_a_router_that_is_behind_another_is_not_believed(lab: Places, directory: Path) -> None:
    router = lab.add_router("100.64.0.9", "192.168.7.1")
    node = behind(lab, router, directory, "--nat=pmp")
    with miniupnpd(router, directory), node:
        error = eventually(lambda: mapping(node)["error"])
        assert "100.64.0.9" in error or "no external address" in error
        assert record(node).ip4 == "192.168.7.2"
