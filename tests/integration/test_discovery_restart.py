"""A kernel that was there before finds its way back without anybody's help."""

from __future__ import annotations

import signal
import time
from contextlib import ExitStack

import pytest

from tests.support.kernel_process import KernelProcess, eventually, kernels, short_directory
from tests.support.networks import healthy, start_in_pairs

pytestmark = pytest.mark.integration

SHARD = "--shard=0"
COMMON = (SHARD, "--cluster-id=44", "--ip-colocation-limit=0")
DISCV5 = (*COMMON, "--discv5-discovery", "--discv5-udp-port=0")
FOUND = {"discv5", "peer-exchange", "inbound"}
LIMIT = 10.0


def peers(kernel: KernelProcess) -> set[str]:
    dealer = kernel.dealer()
    found = {peer["peer_id"] for peer in dealer.ok("peers.list")["peers"]}
    dealer.close()
    return found


def origins(kernel: KernelProcess) -> set[str]:
    dealer = kernel.dealer()
    found = {peer["origin"] for peer in dealer.ok("peers.list")["peers"]}
    dealer.close()
    return found


def returned(kernel: KernelProcess, known: set[str]) -> float:
    """Start it again; seconds from being ready until it is connected to all of them and healthy."""
    kernel.start()
    ready = time.monotonic()
    eventually(lambda: peers(kernel) >= known, LIMIT)
    eventually(lambda: healthy(kernel), ready + LIMIT - time.monotonic())
    return time.monotonic() - ready


@pytest.mark.timeout(150)
def test_a_filled_store_is_enough_to_come_back() -> None:
    with short_directory() as directory, ExitStack() as stack:
        bootstrap = stack.enter_context(KernelProcess(directory / "boot", *DISCV5))
        entry = f"--discv5-bootstrap-node={bootstrap.info('MyENR')['MyENR']}"
        wanderer = KernelProcess(directory / "w", *DISCV5, entry)
        others = [KernelProcess(directory / f"k{number}", *DISCV5, entry) for number in range(5)]
        start_in_pairs(stack, [*others, wanderer])
        known = {kernel.info("MyPeerId")["MyPeerId"]: kernel for kernel in others}
        eventually(lambda: peers(wanderer) >= known.keys(), 60)
        assert "discv5" in origins(wanderer)
        assert origins(wanderer) <= FOUND, "it was given no address to connect to"
        file = wanderer.directory / "peers.json"
        # What came last must be there too when the process is killed: give the file its next turn.
        eventually(lambda: file.exists() and all(peer in file.read_text() for peer in known), 40)
        assert file.stat().st_mode & 0o777 == 0o600

        wanderer.stop(signal.SIGKILL)
        bootstrap.stop(signal.SIGKILL)
        wanderer.options = DISCV5  # and it knows no address
        print(f"after SIGKILL, without bootstrap: {returned(wanderer, {*known}):.2f} s from ready to healthy")
        assert origins(wanderer) <= FOUND, "how they were found is kept"

        # Without discv5 the file alone is left, and one of those in it has gone meanwhile.
        wanderer.stop(signal.SIGTERM)
        known.pop(next(iter(known))).stop(signal.SIGKILL)
        wanderer.options = (*COMMON, "--discv5-discovery=false")
        print(f"after SIGTERM, by the file alone: {returned(wanderer, {*known}):.2f} s from ready to healthy")
        assert not wanderer.dealer().ok("discovery.status")["discv5"]["running"]


def test_without_persistence_nothing_is_kept() -> None:
    with (
        short_directory() as directory,
        kernels(directory, (SHARD, "--peer-persistence=false"), (SHARD,)) as (forgetful, other),
    ):
        forgetful.dealer().ok("peers.connect", {"addresses": [other.address()]})
        eventually(lambda: peers(forgetful))
        forgetful.stop()
        assert not (forgetful.directory / "peers.json").exists()


def test_a_store_that_cannot_be_read_is_put_aside() -> None:
    with short_directory() as directory, KernelProcess(directory / "k", SHARD) as kernel:
        kernel.stop()
        file = kernel.directory / "peers.json"
        file.write_text('{"version": 1, "peers": [{"peer_id"')
        kernel.start()
        assert file.with_name("peers.json.unreadable").exists()
        assert "cannot read the peer store" in kernel.log.read_text()


def test_the_record_is_kept_and_goes_on() -> None:
    with short_directory() as directory, KernelProcess(directory / "k", "--discv5-discovery=false") as kernel:
        first = kernel.info("MyENR")["MyENR"]
        assert first.startswith("enr:-")
        kernel.dealer().ok("lease.acquire", {"shards": [0]})
        with_shard = kernel.info("MyENR")["MyENR"]
        assert with_shard != first
        assert (kernel.directory / "enr").read_text().strip() == with_shard
