"""What a kernel says to its peers when it is back after kill -9."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import trio

from kernel_proc.p2p.keys import NodeKey
from kernel_proc.protocols.metadata import MetadataProtocol
from kernel_proc.relay.params import AGENT_PREFIX
from tests.support.aio import trio_test
from tests.support.kernel_process import KernelProcess, eventually, short_directory
from tests.support.raw_relay import raw_peer
from tests.support.relay import TOPIC

pytestmark = pytest.mark.integration


class Target(NamedTuple):
    address: str
    peer_id: str


def target(kernel: KernelProcess) -> Target:
    address = kernel.address()
    return Target(address, address.rpartition("/")[2])


@pytest.mark.parametrize(
    ("agent", "grafts"), [("nwaku-v0.38.0", False), (f"{AGENT_PREFIX}0.2.0", True)], ids=["nim", "kin"]
)
def test_after_a_kill_only_nodes_of_its_own_kind_are_grafted(agent: str, grafts: bool) -> None:
    """nim-libp2p keeps a silent back-off for a peer that went; the restarted kernel knows who may."""

    @trio_test(deadline=60)
    async def check(directory: Path) -> None:
        # Waiting for a process must not stop the peer in this one.
        aside = trio.to_thread.run_sync
        kernel = KernelProcess(directory / "n", "--cluster-id=42", "--shard=0")
        await aside(kernel.start)
        try:
            async with raw_peer(NodeKey.generate(), agent=agent) as peer, trio.open_nursery() as nursery:
                metadata = MetadataProtocol(peer.host, cluster=42, shards=lambda: (0,))
                nursery.start_soon(metadata.run)
                links = directory / "n" / "links.json"
                await peer.open(await aside(target, kernel))
                await peer.until(lambda: peer.control("graft") == [TOPIC])
                await peer.until(lambda: links.exists() and peer.host.peer_id in links.read_text())
                assert kernel.process is not None
                kernel.process.kill()
                await aside(kernel.process.wait)
                await peer.until(lambda: not peer.host.connections())
                await aside(kernel.start)
                peer.heard.clear()
                await peer.open(await aside(target, kernel))
                dealer = await aside(kernel.dealer)
                if grafts:
                    await peer.until(lambda: peer.control("graft") == [TOPIC])
                else:
                    await peer.until(lambda: bool(peer.subscriptions))
                    # What is published now comes after the hello, and after a heartbeat or two.
                    for number in range(3):
                        body = {"content_topic": "/test/1/back/proto", "shard": 0}
                        await aside(partial(dealer.ok, "relay.publish", body, b"%d" % number))
                        await peer.until(lambda number=number: len(peer.messages) > number)  # type: ignore[misc]
                        await trio.sleep(0.7)
                    assert peer.control("graft") == []
                    await peer.send_control(graft=[TOPIC])
                mesh = partial(dealer.ok, "relay.mesh", {})
                await aside(partial(eventually, lambda: mesh()["topics"].get(TOPIC) == [peer.host.peer_id]))
                nursery.cancel_scope.cancel()
        finally:
            await aside(partial(kernel.__exit__, None, None, None))

    with short_directory() as path:
        check(path)
