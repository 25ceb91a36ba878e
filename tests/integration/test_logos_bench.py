"""`logos bench` on a node with a peer, and on one without."""

from __future__ import annotations

import json

import pytest

from logos_deploy.exits import Exit
from tests.integration.logos_node import LogosUp, logos, short_directory, wait_for
from tests.support.kernel_process import KernelProcess

pytestmark = pytest.mark.integration


def test_load_is_counted_message_by_message() -> None:
    with short_directory() as directory:
        peer = KernelProcess(directory / "peer", "--shard=0")
        with peer:
            node = LogosUp(directory / "n", f"staticnode={peer.address()}")
            try:
                where = ("--data-dir", str(node.data_dir))
                node.wait_said("the node is ready")
                wait_for(lambda: logos("health", "--connected", *where).returncode == 0, "it is connected")
                done = logos("bench", "--messages=40", "--rate=20", "--in-flight=4", "--json", *where)
                assert done.returncode == Exit.OK, done.stdout + done.stderr
                found = json.loads(done.stdout)
                assert (found["accepted"], found["propagated"], found["undecided"]) == (40, 40, 0)
                assert 0 < found["acceptMs"]["median"] <= found["acceptMs"]["max"]
                assert found["propagateMs"]["median"] > 0
                assert found["seconds"] >= 39 / 20, "the rate is kept"
                peer.process.kill()  # type: ignore[union-attr]
                wait_for(lambda: logos("health", "--connected", *where).returncode == 1, "it is alone")
                alone = logos("bench", "--messages=30", "--rate=0", "--drain=0", *where)
                assert alone.returncode == Exit.UNDECIDED
                assert "0 propagated, 30 without an outcome" in alone.stdout
                large = logos("bench", "--messages=3", "--size=1000000", "--drain=0", "--json", *where)
                assert large.returncode == Exit.FAILED
                refused = json.loads(large.stdout)
                assert (refused["accepted"], sum(refused["refused"].values())) == (0, 3)
            finally:
                node.close()
    assert logos("bench", "--size=4").returncode == Exit.USAGE
