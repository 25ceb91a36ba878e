"""Requests and control of a real kernel: every method, every refusal."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest
import zmq

from ipc_schema.frames import MAGIC, NO_REPLY, decode_reply, encode_request
from kernel_proc.build import BUILD
from tests.support.kernel_process import Dealer, KernelProcess, eventually, short_directory

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
TOPIC = "/test/1/requests/proto"


@pytest.fixture(scope="module")
def kernel() -> Iterator[KernelProcess]:
    options = ("--num-shards-in-network=4", "--ipc-max-in-flight=8", "--cluster-id=7", "--shard=3")
    with short_directory() as path, KernelProcess(path / "k", *options) as kernel:
        yield kernel


@pytest.fixture
def dealer(kernel: KernelProcess) -> Iterator[Dealer]:
    dealer = kernel.dealer()
    yield dealer
    dealer.close()


# --- hello ------------------------------------------------------------------------------------------------


def test_hello_tells_what_a_client_needs(kernel: KernelProcess) -> None:
    dealer = kernel.dealer(hello=False)
    hello = dealer.hello("some-mapi")
    assert hello["protocol"] == 1
    assert hello["consumer"] == "some-mapi"
    assert hello["heartbeat_ms"] == 1000
    assert hello["events"] == kernel.endpoints.events
    assert hello["network"] == {
        "cluster": 7,
        "shard_count": 4,
        "max_message_size": 153_600,
        "preset": "",
        "rln_required": False,
    }
    assert hello["limits"]["in_flight"] == 8
    assert hello["limits"]["lease_ttl_ms"] == 60_000
    assert [stream["shard"] for stream in hello["streams"]] == [3]
    assert len(hello["instance"]) == 16


def test_nothing_works_before_hello(kernel: KernelProcess) -> None:
    dealer = kernel.dealer(hello=False)
    for method in ("node.health", "lease.acquire", "no.such.method"):
        reply = dealer.ask(method)
        assert reply.error is not None
        assert reply.error.code == "not_ready"
        assert reply.error.message == "hello first"
    assert dealer.code("hello", {"kind": "tool", "protocol": [2, 3]}) == "unsupported_version"
    assert dealer.code("hello", {"kind": "tool", "protocol": [1, 1], "name": "Not Allowed"}) == "bad_request"
    assert dealer.code("hello", {"kind": 5}) == "bad_request"


def test_a_consumer_without_a_name_gets_one_and_keeps_it(kernel: KernelProcess) -> None:
    dealer = kernel.dealer(hello=False)
    first = dealer.hello()["consumer"]
    assert first == dealer.hello()["consumer"]
    assert first != kernel.dealer(hello=False).hello()["consumer"]


# --- methods ----------------------------------------------------------------------------------------------


def test_leases_follow_the_name_not_the_connection(kernel: KernelProcess) -> None:
    one, two = kernel.dealer("lessee"), kernel.dealer("lessee")
    first = one.ok("lease.acquire", {"shards": [1, 2]})
    assert first["ttl_ms"] == 60_000
    assert [lease["stream"] for lease in first["leases"]] == ["m/7/1", "m/7/2"]
    again = two.ok("lease.acquire", {"shards": [1]})["leases"][0]
    assert again["epoch"] == first["leases"][0]["epoch"]
    assert two.ok("lease.release", {"shards": [0, 1]})["released"] == [1]
    renewed = one.ok("lease.acquire", {"shards": [1]})["leases"][0]
    assert renewed["epoch"] != again["epoch"]
    assert one.ok("lease.release", {"shards": [1, 2]})["released"] == [1, 2]


def test_leases_are_all_or_none(dealer: Dealer) -> None:
    assert dealer.code("lease.acquire", {"shards": [0, 4]}) == "bad_request"
    assert dealer.ok("lease.release", {"shards": [0]})["released"] == []
    assert dealer.code("lease.acquire", {"shards": "all"}) == "bad_request"
    assert dealer.code("lease.acquire") == "bad_request"


def test_publish_outcomes(dealer: Dealer) -> None:
    body = {"content_topic": TOPIC, "timestamp": time.time_ns()}
    reply = dealer.ask("relay.publish", body, b"payload")
    assert reply.error is not None
    assert reply.error.code == "no_peers"
    assert reply.error.retriable
    digest = reply.error.detail["message_hash"]
    assert isinstance(digest, bytes)
    assert len(digest) == 32
    assert reply.error.detail["timestamp"] == body["timestamp"]
    # No peer has it yet, so the repeat is a real attempt and not "already seen".
    assert dealer.code("relay.publish", body, b"payload") == "no_peers"
    assert dealer.code("relay.publish", body | {"force": True}, b"payload") == "no_peers"


def test_many_are_published_with_one_request(kernel: KernelProcess, dealer: Dealer) -> None:
    assert "publish_many" in dealer.ok("hello", {"kind": "tool", "protocol": [1, 1]})["features"]
    now = time.time_ns()
    good = [TOPIC, 1, now, b"", 0, False, b"", False]
    epoch = dealer.ok("lease.acquire", {"shards": [1]})["leases"][0]["epoch"]
    rows = [good, [TOPIC, 4, *good[2:]], [*good, "an element of a later version"], ["", *good[1:]]]
    results = dealer.ok("relay.publish_many", {"messages": rows}, b"one", b"two", b"three", b"four")[
        "results"
    ]
    assert [row[0] for row in results] == ["no_peers", "bad_request", "no_peers", "bad_request"]
    assert [row[3] for row in results] == [now, 0, now, 0]
    replayed = dealer.ask("stream.replay", {"stream": "m/7/1", "epoch": epoch, "after": 0})
    assert replayed.blobs[1::2] == [b"one", b"three"]
    dealer.ok("lease.release", {"shards": [1]})


def test_many_that_cannot_be_published_together(dealer: Dealer) -> None:
    good = [TOPIC, 1, 1, b"", 0, False, b"", False]
    for rows, blobs in (
        ([good], []),
        ([good], [b"a", b"b"]),
        ([good, good[:-1]], [b"a", b"b"]),
        ([good, [TOPIC, 1, "now", *good[3:]]], [b"a", b"b"]),
        ([good, 1], [b"a", b"b"]),
        ({"a": good}, [b"a"]),
        (None, [b"a"]),
    ):
        assert dealer.code("relay.publish_many", {"messages": rows}, *blobs) == "bad_request"
    many = 32 * [good]
    assert dealer.code("relay.publish_many", {"messages": many}, *[bytes(150_000)] * 32) == "too_large"
    assert dealer.ok("relay.publish_many", {"messages": []})["results"] == []


@pytest.mark.parametrize(
    "body",
    [
        {"content_topic": "no-topic"},
        {"content_topic": ""},
        {"content_topic": "/7/a/1/b/proto"},
        {},
        {"content_topic": TOPIC, "shard": 4},
        {"content_topic": TOPIC, "shard": -1},
        {"content_topic": TOPIC, "pubsub_topic": "/waku/2/rs/8/0"},
        {"content_topic": TOPIC, "pubsub_topic": "/waku/2/default-waku/proto"},
        {"content_topic": TOPIC, "pubsub_topic": "/waku/2/rs/7/9"},
        {"content_topic": TOPIC, "pubsub_topic": "/waku/2/rs/7/1", "shard": 2},
        {"content_topic": TOPIC, "meta": b"x" * 65},
        {"content_topic": TOPIC, "timestamp": "now"},
    ],
)
def test_what_publish_refuses(dealer: Dealer, body: dict[str, object]) -> None:
    assert dealer.code("relay.publish", body, b"payload") == "bad_request"


def test_publish_needs_one_payload(dealer: Dealer) -> None:
    assert dealer.code("relay.publish", {"content_topic": TOPIC}) == "bad_request"
    assert dealer.code("relay.publish", {"content_topic": TOPIC}, b"") == "bad_request"
    assert dealer.code("relay.publish", {"content_topic": TOPIC}, b"a", b"b") == "bad_request"


@pytest.mark.parametrize("size", [153_600, 153_540, 160_000])
def test_oversize_messages_are_refused_by_their_text(dealer: Dealer, size: int) -> None:
    """Larger than the maximum as a message, and too large only as a relay frame."""
    reply = dealer.ask("relay.publish", {"content_topic": TOPIC}, bytes(size))
    assert reply.error is not None
    assert reply.error.code == "too_large"
    assert reply.error.message == "Message size exceeded maximum of 153600 bytes"


def test_node_methods(kernel: KernelProcess, dealer: Dealer) -> None:
    info = dealer.ok("node.info")["info"]
    assert set(info) == {
        "Version",
        "Build",
        "Reachability",
        "Metrics",
        "MyMultiaddresses",
        "MyENR",
        "MyPeerId",
        "MyBoundPorts",
        "MaxMessageSize",
    }
    assert info["MyMultiaddresses"][0].endswith(f"/tcp/{info['MyBoundPorts']['tcp']}/p2p/{info['MyPeerId']}")
    assert info["MaxMessageSize"] == 153_600
    assert "logos_delivery_version" in {name for name, _, _ in info["Metrics"]}
    assert info["Build"] == BUILD
    assert dealer.code("node.info", {"ids": ["MyPeerId", "Nonsense"]}) == "bad_request"

    options = {option["name"]: option for option in dealer.ok("node.config")["options"]}
    assert options["cluster-id"]["value"] == 7
    assert options["cluster-id"]["origin"] == "flag"

    metrics = dealer.ok("node.metrics")["metrics"]
    names = {name for name, _, _ in metrics}
    assert {"logos_delivery_event_loop_load", "logos_delivery_ipc_requests"} <= names

    health = dealer.ok("node.health")
    protocols = {protocol["name"]: protocol for protocol in health["protocols"]}
    assert protocols["Relay"]["state"] == "NOT_READY"
    assert protocols["Relay"]["description"] == "No connected peers"
    assert protocols["Metadata"]["state"] == "READY"
    assert protocols["Store"]["state"] == "NOT_MOUNTED"
    shards = {shard["shard"]: shard["health"] for shard in health["shards"]}
    assert shards[3] == "UNHEALTHY"
    assert shards[0] == "NOT_SUBSCRIBED"


def test_peers_methods_without_peers(dealer: Dealer) -> None:
    assert dealer.ok("peers.list") == {"peers": [], "total": 0}
    assert dealer.ok("peers.disconnect", {"peer_id": "16Uiu2"}) == {"disconnected": False}
    unreachable = "/ip4/127.0.0.1/tcp/1"
    results = dealer.ok("peers.connect", {"addresses": [unreachable, "nonsense", unreachable]})["results"]
    assert [result["address"] for result in results] == [unreachable, "nonsense", unreachable]
    assert all(result["error"] for result in results)
    assert dealer.ok("relay.peers")["topics"] == {"/waku/2/rs/7/3": []}
    assert dealer.ok("relay.mesh", {"pubsub_topic": "/waku/2/rs/7/1"})["topics"] == {"/waku/2/rs/7/1": []}
    assert dealer.code("relay.mesh", {"pubsub_topic": "nonsense"}) == "bad_request"


# --- limits and odd clients -------------------------------------------------------------------------------


def test_a_plain_req_socket_works(kernel: KernelProcess) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    req = context.socket(zmq.REQ)
    try:
        req.set(zmq.LINGER, 0)
        req.set(zmq.RCVTIMEO, 10_000)
        req.connect(kernel.endpoints.requests)
        req.send_multipart(encode_request(bytes(16), "hello", {"kind": "tool", "protocol": [1, 1]}))
        assert decode_reply(req.recv_multipart()).error is None
        req.send_multipart([MAGIC, b"garbage", b""])
        error = decode_reply(req.recv_multipart()).error
        assert error is not None
        assert error.code == "bad_request"
    finally:
        req.close()
        context.term()


def test_success_without_reply_and_errors_with(dealer: Dealer) -> None:
    dealer.send("node.health", flags=NO_REPLY)
    failed = dealer.send("nope", flags=NO_REPLY)
    assert dealer.receive().correlation_id == failed


def test_unknown_tail_elements_and_keys_are_ignored(dealer: Dealer) -> None:
    header = msgpack.packb([bytes(16), "node.health", 0, 0xFFFE, "more", 7])
    dealer.socket.send_multipart([MAGIC, header, msgpack.packb({"unknown": 1})])
    assert dealer.receive().error is None


def test_at_most_so_many_requests_at_once(dealer: Dealer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"/ip4/127.0.0.1/tcp/{silent.getsockname()[1]}"
        sent = [dealer.send("peers.connect", {"addresses": [address]}, budget_ms=1500) for _ in range(10)]
        early = [dealer.receive() for _ in range(2)]
        assert {reply.error.code for reply in early if reply.error} == {"busy"}
        # What is answered at once is served all the same, before the slow ones.
        assert dealer.ok("node.health")["state"] == "READY"
        late = [dealer.receive(10.0) for _ in range(8)]
    assert {reply.correlation_id for reply in (*early, *late)} == set(sent)


def test_many_publishes_are_answered_in_their_order(dealer: Dealer) -> None:
    for round_ in range(20):
        sent = [
            dealer.send("relay.publish", {"content_topic": TOPIC}, [b"%d %d" % (round_, n)]) for n in range(8)
        ]
        assert [dealer.receive().correlation_id for _ in sent] == sent


def test_a_client_that_never_reads_delays_no_one_else(kernel: KernelProcess, dealer: Dealer) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    deaf = context.socket(zmq.DEALER)
    try:
        deaf.set(zmq.LINGER, 0)
        deaf.set(zmq.RCVHWM, 1)
        deaf.set(zmq.SNDHWM, 0)
        deaf.connect(kernel.endpoints.requests)
        deaf.send_multipart(encode_request(bytes(16), "hello", {"kind": "tool", "protocol": [1, 1]}))
        for _ in range(3000):
            deaf.send_multipart(encode_request(bytes(16), "node.config"))
        for _ in range(50):
            dealer.ok("lease.release", {"shards": [0]})

        def dropped() -> float:
            found: float = sum(
                value
                for name, labels, value in dealer.ok("node.metrics")["metrics"]
                if name.endswith("ipc_dropped_slow") and labels["socket"] == "requests"
            )
            return found

        eventually(dropped)
    finally:
        deaf.close()
        context.term()


# --- control ----------------------------------------------------------------------------------------------


def test_control_tells_health_without_hello(kernel: KernelProcess) -> None:
    control = kernel.control()
    health = control.ok("health")
    assert health["ready"] is True
    assert health["state"] == "READY"
    assert kernel.process is not None
    assert health["pid"] == kernel.process.pid
    assert health["uptime_ms"] >= 0
    assert "detail" not in health
    assert control.code("hello", {"kind": "tool"}) == "unknown_method"
    assert control.code("node.health") == "unknown_method"


def test_log_levels_change_while_running(kernel: KernelProcess) -> None:
    control = kernel.control()
    assert control.ok("log_level", {"level": "DEBUG"}) == {"previous": "INFO"}
    assert control.ok("log_level", {"level": "INFO"}) == {"previous": "DEBUG"}
    assert control.ok("log_level", {"level": "TRACE", "logger": "relay.service"}) == {"previous": "INFO"}
    assert control.ok("log_level", {"level": "INFO", "logger": "relay.service"}) == {"previous": "TRACE"}
    assert control.code("log_level", {"level": "LOUD"}) == "bad_request"
    assert control.code("log_level", {"level": "INFO", "logger": "no.such"}) == "bad_request"


def test_control_answers_while_requests_are_queued(kernel: KernelProcess, dealer: Dealer) -> None:
    control = kernel.control()
    control.ok("health")
    for _ in range(2000):
        dealer.send("node.config")
    control.ok("health")


def test_sockets_are_private(kernel: KernelProcess) -> None:
    directory = Path(kernel.endpoints.requests.removeprefix("ipc://")).parent
    assert directory.stat().st_mode & 0o777 == 0o700
    for name in ("events", "requests", "control"):
        assert (directory / name).stat().st_mode & 0o077 == 0
    assert (kernel.directory / "nodekey").stat().st_mode & 0o777 == 0o600
