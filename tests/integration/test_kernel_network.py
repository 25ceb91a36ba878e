"""Kernels that talk to each other over libp2p on loopback."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ipc_schema.kernel.events import (
    HEALTH_TOPIC,
    PEERS_TOPIC,
    SOURCE_RELAY,
    SOURCE_SELF,
    HealthEvent,
    MessageEvent,
    PeerEvent,
    stream_topic,
)
from tests.support.kernel_process import Dealer, KernelProcess, eventually, kernels, short_directory

pytestmark = pytest.mark.integration

TOPIC = "/test/1/network/proto"
SHARD = stream_topic(0, 0)


@pytest.fixture
def directory() -> Iterator[Path]:
    with short_directory() as path:
        yield path


def meshed(dealer: Dealer) -> bool:
    shards: list[dict[str, Any]] = dealer.ok("node.health")["shards"]
    return any(shard["mesh_peers"] for shard in shards)


def connect(one: KernelProcess, two: KernelProcess) -> None:
    result = one.dealer().ok("peers.connect", {"addresses": [two.address()]})["results"][0]
    assert result.get("error") is None


def test_two_kernels_relay_both_ways(directory: Path) -> None:
    with kernels(directory, (), ("--websocket-support", "--websocket-port=0")) as (one, two):
        dealers = [one.dealer("a"), two.dealer("b")]
        states = [dealer.ok("lease.acquire", {"shards": [0]})["leases"][0] for dealer in dealers]
        assert states[0]["coverage"] == []
        readers = [one.subscriber(SHARD), two.subscriber(SHARD)]
        peers, health = one.subscriber(PEERS_TOPIC), one.subscriber(HEALTH_TOPIC)
        for reader in (*readers, peers, health):
            reader.heartbeat()
        before = time.time_ns()
        connect(one, two)
        for dealer in dealers:
            eventually(lambda dealer=dealer: meshed(dealer))

        # what the streams tell of it
        changes: list[PeerEvent] = []
        while not changes or changes[-1].peer.cluster is None:
            _, event, _ = peers.event()
            if isinstance(event, PeerEvent):
                changes.append(event)
        record = changes[-1].peer
        assert record.peer_id == two.info("MyPeerId")["MyPeerId"]
        assert record.cluster == 0
        assert record.direction == "outbound"
        assert changes[0].change == "joined"
        while True:
            _, event, _ = health.event()
            if isinstance(event, HealthEvent) and event.health.shards[0].health == "MINIMALLY_HEALTHY":
                break
        relay = next(protocol for protocol in event.health.protocols if protocol.name == "Relay")
        assert (relay.state, relay.strength) == ("READY", 1)
        covered = dealers[0].ok("lease.acquire", {"shards": [0]})["leases"][0]["coverage"]
        assert len(covered) == 1
        assert covered[0][0] >= before
        assert covered[0][1] is None
        while not readers[0].heartbeat().covered:
            pass

        # messages, both ways
        for number in range(20):
            for index, dealer in enumerate(dealers):
                reply = dealer.ask(
                    "relay.publish", {"content_topic": TOPIC, "meta": b"m"}, b"%d from %d" % (number, index)
                )
                assert reply.error is None
                assert reply.body["peers"] == 1
                assert reply.body["duplicate"] is False
        for own, reader in enumerate(readers):
            got: dict[bytes, MessageEvent] = {}
            while len(got) < 40:
                event, payload = reader.message()
                assert payload not in got
                got[payload] = event
            assert sorted(event.seq for event in got.values()) == list(range(1, 41))
            for payload, event in got.items():
                assert event.source == (SOURCE_SELF if payload.endswith(b"%d" % own) else SOURCE_RELAY)

        # a repeat is not an error, and only goes out again when forced
        body = {"content_topic": TOPIC, "timestamp": time.time_ns()}
        first = dealers[0].ok("relay.publish", body, b"again")
        assert dealers[0].ok("relay.publish", body, b"again") == first | {"duplicate": True, "peers": 0}
        forced = dealers[0].ok("relay.publish", body | {"force": True}, b"again")
        assert forced == first | {"duplicate": True}
        assert readers[0].message()[1] == b"again"
        assert readers[1].message()[1] == b"again"
        dealers[0].ok("relay.publish", {"content_topic": TOPIC}, b"end")
        assert readers[0].message()[1] == b"end"
        assert readers[1].message()[1] == b"end"

        # who is there
        listed = dealers[1].ok("peers.list")["peers"]
        assert [peer["direction"] for peer in listed] == ["inbound"]
        assert listed[0]["mesh"] == ["/waku/2/rs/0/0"]
        assert listed[0]["agent"].startswith("logos-kernel/")
        mesh = dealers[0].ok("relay.mesh")["topics"]
        assert mesh == {"/waku/2/rs/0/0": [two.info("MyPeerId")["MyPeerId"]]}
        metrics = {name for name, _, _ in dealers[0].ok("node.metrics")["metrics"]}
        assert "logos_delivery_connected_peers" in metrics

        # and when they part
        peer_id = two.info("MyPeerId")["MyPeerId"]
        assert dealers[0].ok("peers.disconnect", {"peer_id": peer_id}) == {"disconnected": True}
        while True:
            _, event, _ = peers.event()
            if isinstance(event, PeerEvent) and event.change == "left":
                break
        assert event.peer.peer_id == peer_id
        eventually(lambda: dealers[0].ok("lease.acquire", {"shards": [0]})["leases"][0]["coverage"][0][1])
        assert dealers[0].code("relay.publish", {"content_topic": TOPIC}, b"alone") == "no_peers"


def test_the_largest_message_passes_and_one_byte_more_does_not(directory: Path) -> None:
    with kernels(directory, ("--shard=0",), ("--shard=0",)) as (one, two):
        connect(one, two)
        dealer = one.dealer()
        eventually(lambda: meshed(dealer))
        reader = two.subscriber(SHARD)
        reader.heartbeat()
        body = {"content_topic": TOPIC, "timestamp": time.time_ns()}
        size = 153_600
        while dealer.ask("relay.publish", body, bytes(size)).error is not None:
            size -= 1
        assert size > 153_600 - 120
        event, payload = reader.message()
        assert len(payload) == size
        assert event.source == SOURCE_RELAY


def test_an_address_that_does_not_say_whose_it_is_is_enough(directory: Path) -> None:
    with KernelProcess(directory / "one", "--shard=0") as one:
        address = one.address().split("/p2p/")[0]
        with KernelProcess(directory / "two", "--shard=0", f"--staticnode={address}") as two:
            dealer = two.dealer()
            eventually(lambda: meshed(dealer))
            eventually(lambda: [p["origin"] for p in dealer.ok("peers.list")["peers"]] == ["static"])


def test_a_killed_kernel_comes_back_as_the_same_peer(directory: Path) -> None:
    """Static peers are dialled again, the peer id stays, the instance and the epochs do not."""
    one = KernelProcess(directory / "one", "--shard=0")
    with one:
        options = ("--shard=0", f"--staticnode={one.address()}")
        with KernelProcess(directory / "two", *options) as two:
            watcher = one.dealer("watcher")
            eventually(lambda: meshed(watcher))
            before = two.dealer(hello=False).hello()
            identity = two.info("MyPeerId")
            assert [peer["origin"] for peer in two.dealer().ok("peers.list")["peers"]] == ["static"]

            assert two.stop(signal.SIGKILL) == -signal.SIGKILL
            eventually(lambda: not watcher.ok("peers.list")["peers"], 25.0)
            two.start()
            after = two.dealer(hello=False).hello()
            assert two.info("MyPeerId") == identity
            assert after["instance"] != before["instance"]
            assert after["streams"][0]["epoch"] != before["streams"][0]["epoch"]
            eventually(lambda: meshed(watcher))
            reader = two.subscriber(SHARD)
            reader.heartbeat()
            watcher.ok("relay.publish", {"content_topic": TOPIC}, b"welcome back")
            assert reader.message()[1] == b"welcome back"

            # and the other way round: the dialled one goes away and returns
            port = one.address().split("/tcp/")[1].split("/")[0]
            assert one.stop(signal.SIGTERM) == 0
            eventually(lambda: not two.dealer().ok("peers.list")["peers"])
            one.options = ("--shard=0", f"--tcp-port={port}")
            one.start()
            eventually(lambda: meshed(two.dealer()), 25.0)


def test_another_cluster_is_left_alone(directory: Path) -> None:
    with kernels(directory, ("--shard=0",), ("--shard=0", "--cluster-id=5")) as (one, two):
        dealer = one.dealer()
        dealer.ok("peers.connect", {"addresses": [two.address()]})
        eventually(lambda: not dealer.ok("peers.list")["peers"])

        def other_clusters() -> float:
            """The first side to learn it disconnects, and the other may never get its answer."""
            found: float = sum(
                value
                for kernel in (one, two)
                for name, _, value in kernel.dealer().ok("node.metrics")["metrics"]
                if name.endswith("metadata_other_cluster")
            )
            return found

        eventually(other_clusters)


def test_a_protected_shard_refuses_what_is_not_signed(directory: Path) -> None:
    key = "02" + "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"
    with KernelProcess(directory / "k", "--shard=0", f"--protected-shard=0:{key}") as kernel:
        assert kernel.dealer().code("relay.publish", {"content_topic": TOPIC}, b"unsigned") == "bad_request"


def test_relay_can_be_off(directory: Path) -> None:
    with KernelProcess(directory / "k", "--relay=false") as kernel:
        dealer = kernel.dealer()
        (state,) = dealer.ok("lease.acquire", {"shards": [0]})["leases"]  # messages may come by filter
        assert state["coverage"] == []
        assert dealer.code("relay.publish", {"content_topic": TOPIC}, b"x") == "not_ready"
        protocols = {p["name"]: p["state"] for p in dealer.ok("node.health")["protocols"]}
        assert protocols["Relay"] == "NOT_MOUNTED"


def test_networks_that_want_proofs_get_no_message_without(directory: Path) -> None:
    options = ("--preset=twn", "--listen-address=127.0.0.1")
    with KernelProcess(directory / "k", *options) as kernel:
        dealer = kernel.dealer(hello=False)
        assert dealer.hello()["network"]["rln_required"] is True
        assert dealer.code("relay.publish", {"content_topic": TOPIC}, b"x") == "rln_required"
