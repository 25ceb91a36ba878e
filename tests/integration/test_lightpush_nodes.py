"""Real kernels: a node without relay has its messages published by others, through its request socket."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import coincurve
import pytest

from ipc_schema.kernel.events import SOURCE_RELAY, stream_topic
from ipc_schema.kernel.lightpush import LightpushPublishReply
from ipc_schema.message import WakuMessage, message_hash
from ipc_schema.topics import shard_topic
from kernel_proc.p2p.keys import NodeKey
from tests.support.kernel_process import Dealer, KernelProcess, eventually, kernels, short_directory

CONTENT = "/toychat/2/huilong/proto"
TOPIC = shard_topic(0, 0)


@pytest.fixture
def directory() -> Iterator[Path]:
    with short_directory() as path:
        yield path


def states(kernel: KernelProcess) -> dict[str, str]:
    health = kernel.dealer().ok("node.health")
    return {protocol["name"]: protocol["state"] for protocol in health["protocols"]}


def push(dealer: Dealer, payload: bytes, **more: object) -> LightpushPublishReply:
    body = dealer.ok("lightpush.publish", {"content_topic": CONTENT} | more, payload)
    return LightpushPublishReply.from_body(body)


@contextmanager
def relaying(directory: Path, *options: str) -> Iterator[tuple[KernelProcess, KernelProcess]]:
    """A service node and another in its mesh."""
    with (
        kernels(directory, ["--shard=0", *options]) as (service,),
        KernelProcess(directory / "far", "--shard=0", f"--staticnode={service.address()}") as far,
    ):
        dealer = far.dealer()
        eventually(lambda: dealer.ok("relay.mesh", {})["topics"].get(TOPIC))
        yield service, far


def test_an_edge_node_publishes_through_another(directory: Path) -> None:
    with (
        relaying(directory) as (service, far),
        KernelProcess(directory / "edge", "--relay=false", f"--lightpushnode={service.address()}") as edge,
    ):
        assert states(service)["Lightpush"] == states(service)["Legacy Lightpush"] == "READY"
        eventually(lambda: states(edge)["Lightpush Client"] == "READY")
        assert states(edge)["Lightpush"] == "NOT_MOUNTED"
        readers = [kernel.subscriber(stream_topic(0, 0)) for kernel in (service, far)]
        for reader in readers:
            reader.heartbeat()

        dealer = edge.dealer("edge")
        now = time.time_ns()
        done = push(dealer, b"hello", timestamp=now, meta=b"m")
        message = WakuMessage(b"hello", CONTENT, timestamp=now, meta=b"m")
        digest = message_hash(TOPIC, message)
        assert done == LightpushPublishReply(
            message_hash=digest,
            timestamp=now,
            pubsub_topic=TOPIC,
            peer=service.info("MyPeerId")["MyPeerId"],
            relay_peers=1,
        )
        for reader in readers:  # the network, and the service node's own readers
            event, payload = reader.message()
            assert (event.message_hash, payload, event.source) == (digest, b"hello", SOURCE_RELAY)
        # again: not an error, and no peer gets it twice
        assert push(dealer, b"hello", timestamp=now, meta=b"m").relay_peers == 1
        stamped = push(dealer, b"next", peer=done.peer)
        assert abs(stamped.timestamp - time.time_ns()) < 10**10
        for reader in readers:
            assert reader.message()[0].message_hash == stamped.message_hash


def test_errors_tell_whose_they_are(directory: Path) -> None:
    key = coincurve.PrivateKey(b"\x01" * 32).public_key.format().hex()
    with (
        relaying(directory, f"--protected-shard=0:{key}") as (service, _),
        KernelProcess(directory / "edge", "--relay=false") as edge,
    ):
        dealer = edge.dealer("edge")

        def refused(code: str, *blobs: bytes, **more: object) -> dict[str, Any]:
            error = dealer.ask("lightpush.publish", {"content_topic": CONTENT} | more, *blobs).error
            assert error is not None
            assert str(error.code) == code, error
            return error.detail

        # ours: no peer was asked
        assert "attempts" not in refused("no_peers", b"x")
        refused("bad_request", b"")
        refused("bad_request")
        refused("bad_request", b"x", content_topic="bad")
        refused("bad_request", b"x", shard=7)
        refused("too_large", bytes(153_600))
        # theirs
        detail = refused("bad_request", b"x", peer=service.address())
        (attempt,) = detail["attempts"]
        assert (attempt["status"], attempt["peer"]) == (420, service.address())
        assert len(detail["message_hash"]) == 32
        detail = refused("no_peers", b"x", peer=f"/ip4/127.0.0.1/tcp/1/p2p/{NodeKey.generate().peer_id}")
        assert "status" not in detail["attempts"][0]


def test_a_node_that_relays_every_shard_pushes_on_each_without_any_lease(directory: Path) -> None:
    network = ("--cluster-id=9", "--num-shards-in-network=4")
    with (
        kernels(directory, [*network, "--shard=all", "--rate-limit=lightpush:0/1s"]) as (service,),
        KernelProcess(directory / "far", *network, "--shard=all", f"--staticnode={service.address()}") as far,
        KernelProcess(
            directory / "edge", *network, "--relay=false", f"--lightpushnode={service.address()}"
        ) as edge,
    ):
        for node in (service, far):
            dealer = node.dealer()
            eventually(lambda dealer=dealer: all(dealer.ok("relay.mesh", {})["topics"].values()))
            assert len(dealer.ok("relay.mesh", {})["topics"]) == 4
        dealer = edge.dealer("edge")
        for shard in range(4):
            topic = f"/waku/2/rs/9/{shard}"
            body = {"content_topic": CONTENT, "pubsub_topic": topic, "timestamp": time.time_ns()}
            eventually(lambda body=body: dealer.ask("lightpush.publish", body, b"x").error is None)


def test_a_service_without_peers_and_then_with_one(directory: Path) -> None:
    with (
        kernels(directory, ["--shard=0", "--rate-limit=lightpush:0/1s"]) as (service,),
        KernelProcess(directory / "edge", "--relay=false", f"--lightpushnode={service.address()}") as edge,
    ):
        eventually(lambda: states(edge)["Lightpush Client"] == "READY")
        assert states(service)["Lightpush"] == "NOT_READY"
        dealer = edge.dealer("edge")
        body = {"content_topic": CONTENT, "timestamp": time.time_ns()}
        for _ in range(2):
            error = dealer.ask("lightpush.publish", body, b"alone").error
            assert error is not None
            attempts: Any = error.detail["attempts"]
            assert (str(error.code), error.retriable, attempts[0]["status"]) == ("no_peers", True, 505)
        with KernelProcess(directory / "far", "--shard=0", f"--staticnode={service.address()}") as far:
            dealer_far = far.dealer()
            eventually(lambda: dealer_far.ok("relay.mesh", {})["topics"].get(TOPIC))
            reader = far.subscriber(stream_topic(0, 0))
            reader.heartbeat()
            # the very same message: it was never sent, so this is not a repeat
            eventually(lambda: dealer.ask("lightpush.publish", body, b"alone").error is None)
            assert reader.message()[1] == b"alone"
            assert states(service)["Lightpush"] == "READY"


def test_the_rate_limit_of_the_reference_holds_by_default(directory: Path) -> None:
    with (
        relaying(directory) as (service, _),
        KernelProcess(directory / "edge", "--relay=false", f"--lightpushnode={service.address()}") as edge,
    ):
        eventually(lambda: states(edge)["Lightpush Client"] == "READY")
        dealer = edge.dealer("edge")
        for number in range(60):
            dealer.send("lightpush.publish", {"content_topic": CONTENT}, [b"%d" % number], budget_ms=4000)
        errors = [dealer.receive().error for _ in range(60)]
        codes = ["ok" if error is None else str(error.code) for error in errors]
        assert set(codes) <= {"ok", "rate_limited"}, [error and error.detail for error in errors]
        assert codes.count("ok") >= 5
        metrics = {
            (name, labels.get("state")): value
            for name, labels, value in service.dealer().ok("node.metrics")["metrics"]
            if labels.get("service") == "/vac/waku/lightpush/3.0.0"
        }
        assert metrics["logos_delivery_service_requests", "served"] == codes.count("ok")
        assert metrics["logos_delivery_service_requests", "rejected"] > 0
