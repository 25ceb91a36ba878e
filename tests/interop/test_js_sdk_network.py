"""js-waku's SDK on networks of each kind: metadata, autosharding over several shards, static sharding."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ipc_schema.topics import autoshard, shard_topic
from tests.interop.conftest import MakeLightNode
from tests.interop.inbox import CommandError
from tests.interop.sdk.light_node import LightNode
from tests.interop.sdk.network import CLUSTER, ServiceKernel
from tests.support.kernel_process import KernelProcess, eventually, short_directory

pytestmark = [pytest.mark.interop, pytest.mark.integration, pytest.mark.timeout(300)]

SHARDS = 8
SERVICES = (
    "/vac/waku/store-query/3.0.0",
    "/vac/waku/lightpush/3.0.0",
    "/vac/waku/lightpush/2.0.0-beta1",
    "/vac/waku/filter-subscribe/2.0.0-beta1",
    "/vac/waku/filter-push/2.0.0-beta1",
    "/vac/waku/peer-exchange/2.0.0-alpha1",
    "/vac/waku/metadata/1.0.0",
)


@pytest.fixture
def directory() -> Iterator[Path]:
    with short_directory() as path:
        yield path


def use_everything(js: LightNode, content_topic: str, shard: int, *, static: bool = False) -> None:
    """Subscribe, push as soon as the service has peers, get that by filter and again from the store."""
    place: dict[str, Any] = {"shard": shard} if static else {}
    assert js.subscribe(content_topic, **place)
    sent: list[bytes] = []

    def pushed() -> bool:
        now = time.time_ns() // 1_000_000
        done = js.send(content_topic, b"%d" % now, timestamp_ms=now, **place)
        if done.peers:
            sent.append(done.hash)
        return len(sent) == 3

    eventually(pushed)
    for digest in sent:
        got = js.next_message()
        assert (got.hash, got.pubsub_topic) == (digest, shard_topic(CLUSTER, shard))
    eventually(lambda: [one.hash for page in js.query(content_topic, **place) for one in page if one] == sent)
    assert js.unsubscribe(content_topic, **place)


def test_content_topics_fall_on_the_same_shards(directory: Path, make_light_node: MakeLightNode) -> None:
    sharding = f"--num-shards-in-network={SHARDS}"
    with ServiceKernel(
        directory / "s", "--websocket-port=0", "--store=true", "--rate-limit=lightpush:0/1s", sharding
    ) as service:
        far = [f"--cluster-id={CLUSTER}", sharding, "--store=true", f"--staticnode={service.tcp_address}"]
        with KernelProcess(directory / "f", *far):
            js: LightNode = make_light_node(shards=SHARDS)
            js.join(service.ws_address)
            assert js.metadata(service.peer_id) == (CLUSTER, tuple(range(SHARDS)))
            (connection,) = js.peers()[service.peer_id]["connections"]
            assert connection["muxer"].startswith("/mplex/")
            assert "/ws/" in connection["address"]
            assert set(SERVICES) <= set(js.peers()[service.peer_id]["protocols"])
            used = set()
            for number in range(6):
                topic = f"/interop-{number}/1/shards/proto"
                used.add(autoshard(topic, SHARDS))
                use_everything(js, topic, autoshard(topic, SHARDS))
            assert len(used) > 2


def test_static_sharding(directory: Path, make_light_node: MakeLightNode) -> None:
    static = ["--num-shards-in-network=0", "--shard=3", "--shard=700"]
    with (
        ServiceKernel(
            directory / "s", "--websocket-port=0", "--store=true", "--rate-limit=lightpush:0/1s", *static
        ) as service,
        KernelProcess(
            directory / "f", f"--cluster-id={CLUSTER}", *static, f"--staticnode={service.tcp_address}"
        ),
    ):
        js: LightNode = make_light_node(shards=0)
        js.join(service.ws_address)
        assert js.metadata(service.peer_id) == (CLUSTER, (3, 700))
        for shard in (3, 700):
            use_everything(js, "no content topic of autosharding", shard, static=True)
        # js-waku uses a peer only for the shards of its metadata.
        assert js.send("topic", b"x", shard=4).errors == ("No peer available",)


def test_a_node_of_another_cluster_is_sent_away(directory: Path, make_light_node: MakeLightNode) -> None:
    js: LightNode = make_light_node(cluster=CLUSTER + 1)
    with ServiceKernel(directory / "s", "--websocket-port=0", "--shard=0") as service:
        with suppress(CommandError):  # it may be over before the dial is
            js.dial(service.ws_address)
        js.wait_event("disconnected", lambda event: bool(event["peerId"] == service.peer_id))
        dealer = service.dealer()
        eventually(lambda: js.peer_id not in {peer["peer_id"] for peer in dealer.ok("peers.list")["peers"]})
