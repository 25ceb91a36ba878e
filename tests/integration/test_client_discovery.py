"""How a node finds its peers, seen and changed by the clients, on real kernels and a real DNS server."""

from __future__ import annotations

import pytest

from logos_client import BadRequestError, KernelClient, NoPeersError, NotReadyError, blocking
from tests.support.aio import asyncio_test
from tests.support.dns_server import SignedList, dns_server
from tests.support.kernel_process import KernelProcess, eventually, short_directory

pytestmark = pytest.mark.integration

COMMON = ("--cluster-id=44", "--shard=0", "--ip-colocation-limit=0")
DISCV5 = (*COMMON, "--discv5-discovery", "--discv5-udp-port=0")


def test_a_node_is_led_to_its_peers_by_hand() -> None:
    with (
        short_directory() as path,
        KernelProcess(path / "a", *DISCV5) as boot,
        KernelProcess(path / "b", *COMMON, "--discv5-udp-port=0") as process,
        blocking.KernelClient.connect(boot.directory / "run") as there,
        blocking.KernelClient.connect(process.directory / "run") as kernel,
    ):
        status = kernel.discovery()
        assert not status.discv5.running
        assert (status.short, status.short_shards, status.short_services) == (True, (0,), ("store",))
        assert kernel.known_peers().total == 0

        enr = there.discovery().enr
        with pytest.raises(BadRequestError):
            kernel.discovery_bootnodes([enr, enr[:-4] + "AAAA"])
        assert kernel.discovery().discv5.boot_nodes == 0, "none of them was taken"
        assert kernel.discovery_bootnodes(enr) == 1
        assert kernel.discovery_bootnodes(enr, add=True) == 1, "the same one"
        started = kernel.discovery_start()
        assert (started.running, started.changed) == (True, True)
        assert not kernel.discovery_start().changed
        eventually(lambda: kernel.discovery().discv5.verified == 1, 20)

        peer_id = there.info(["MyPeerId"])["MyPeerId"]
        eventually(lambda: [peer.peer_id for peer in kernel.peers()] == [peer_id], 20)
        (known,) = kernel.known_peers().peers
        assert (known.peer_id, known.origin, known.connected, known.enr) == (peer_id, "discv5", True, enr)
        found = kernel.peer_exchange(5, peer=str(peer_id))
        assert found.peer == peer_id

        asked = kernel.find_node(enr, [0])
        assert (asked.answered, asked.node.peer_id, asked.nodes) == (True, peer_id, (asked.node,))
        assert (asked.node.cluster, asked.node.shards) == (44, (0,))
        assert {"relay", "filter"} <= set(asked.node.capabilities or ())
        with pytest.raises(BadRequestError):
            kernel.find_node(enr[:-4] + "AAAA", [0])
        ours = kernel.discovery().enr
        refused = kernel.find_node(ours, [0])
        assert not refused.answered
        assert "not reachable" in refused.why, "one does not ask oneself"

        stopped = kernel.discovery_stop()
        assert (stopped.running, stopped.changed) == (False, True)
        assert kernel.peers(), "connections stay"
        with pytest.raises(NotReadyError):
            kernel.find_node(enr, [0])
        assert kernel.find_node(enr).node == asked.node, "to decode a record needs no discv5"
        assert kernel.disconnect_peer(str(peer_id))
        eventually(lambda: not kernel.peers(), 10)
        (known,) = kernel.known_peers().peers
        assert not known.connected
        assert known.retry_ms > 400_000
        assert "peers.disconnect" in known.why


def test_a_peer_of_another_cluster_and_one_that_is_not_there_say_why() -> None:
    gone = "/ip4/127.0.0.1/tcp/9/p2p/16Uiu2HAm9p9kdzmw2D5BDPSn8YfghzD3xm4iN4DYYJzZ7iTGNvcE"
    with (
        short_directory() as path,
        KernelProcess(path / "a", "--cluster-id=45", "--shard=0") as stranger,
        KernelProcess(path / "b", *COMMON) as process,
        blocking.KernelClient.connect(process.directory / "run") as kernel,
    ):
        (failed,) = kernel.connect_peers(gone)
        assert failed.error
        kernel.connect_peers(stranger.address())

        def put_aside() -> bool:
            known = kernel.known_peers().peers
            return bool(known) and not known[0].connected and known[0].retry_ms > 3_000_000

        eventually(put_aside, 20)
        assert "in cluster 45, ours is 44" in kernel.known_peers().peers[0].why


@asyncio_test(90)
async def test_a_list_is_read_with_and_without_using_it() -> None:
    with short_directory() as path, KernelProcess(path / "a", *COMMON) as listed:
        nodes = SignedList("nodes.example.org")
        nodes.root(nodes.branch([listed.info("MyENR")["MyENR"]]), seq=9)
        with dns_server(nodes) as server, KernelProcess(path / "b", *COMMON) as process:
            async with KernelClient.connect(process.directory / "run") as kernel:
                found = await kernel.discovery_list(nodes.url, name_server=server.address, use=False)
                assert (found.seq, len(found.enrs), found.complete, found.errors) == (9, 1, True, ())
                assert (await kernel.known_peers()).total == 0
                await kernel.discovery_list(nodes.url, name_server=server.address)
                (known,) = (await kernel.known_peers()).peers
                assert (known.origin, known.enr) == ("dns", found.enrs[0])
                with pytest.raises(BadRequestError):
                    await kernel.discovery_list("enrtree://x@y", name_server=server.address)
                server.zone["nodes.example.org"] = "v=spf1 -all"
                with pytest.raises(NoPeersError):
                    await kernel.discovery_list(nodes.url, name_server=server.address)


def test_discv5_without_its_port_says_so() -> None:
    with short_directory() as path, KernelProcess(path / "a", *DISCV5) as first:
        port = first.info("MyBoundPorts")["MyBoundPorts"]["discv5Udp"]
        with (
            KernelProcess(path / "b", *COMMON, f"--discv5-udp-port={port}") as process,
            blocking.KernelClient.connect(process.directory / "run") as kernel,
        ):
            with pytest.raises(NotReadyError, match="cannot listen"):
                kernel.discovery_start()
            assert not kernel.discovery().discv5.running
