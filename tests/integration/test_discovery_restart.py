"""A kernel that was there before finds its way back without anybody's help."""

from __future__ import annotations

import signal
import time

import pytest

from tests.support.kernel_process import KernelProcess, eventually, kernels, short_directory

pytestmark = pytest.mark.integration

SHARD = "--shard=0"


def peers(kernel: KernelProcess) -> set[str]:
    dealer = kernel.dealer()
    found = {peer["peer_id"] for peer in dealer.ok("peers.list")["peers"]}
    dealer.close()
    return found


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
def test_a_filled_store_is_enough_to_come_back(ending: int) -> None:
    with short_directory() as directory, kernels(directory, (SHARD,), (SHARD,), (SHARD,)) as running:
        others = running[1:]
        known = {other.info("MyPeerId")["MyPeerId"] for other in others}
        wanderer = running[0]
        dealer = wanderer.dealer()
        addresses = [other.address() for other in others]
        assert all(
            one.get("error") is None
            for one in dealer.ok("peers.connect", {"addresses": addresses})["results"]
        )
        eventually(lambda: (wanderer.directory / "peers.json").exists(), 20)
        # What comes last must be there too when the process is killed: give the file its next turn.
        eventually(lambda: all(p in (wanderer.directory / "peers.json").read_text() for p in known), 40)
        wanderer.stop(ending)
        since = time.monotonic()
        wanderer.start()
        eventually(lambda: peers(wanderer) >= known, 10)
        assert time.monotonic() - since < 15
        origins = {p["origin"] for p in wanderer.dealer().ok("peers.list")["peers"]}
        assert origins <= {"api", "inbound"}
        assert (wanderer.directory / "peers.json").stat().st_mode & 0o777 == 0o600


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
        assert "cannot be read" in kernel.log.read_text()


def test_the_record_is_kept_and_goes_on() -> None:
    with short_directory() as directory, KernelProcess(directory / "k", "--discv5-discovery=false") as kernel:
        first = kernel.info("MyENR")["MyENR"]
        assert first.startswith("enr:-")
        kernel.dealer().ok("lease.acquire", {"shards": [0]})
        with_shard = kernel.info("MyENR")["MyENR"]
        assert with_shard != first
        assert (kernel.directory / "enr").read_text().strip() == with_shard
