"""Real kernels: one archives what it hears, others ask it, through their request sockets."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ipc_schema.frames import Reply
from ipc_schema.kernel.store import StoredMessage, StoreQueryReply, stored_messages
from ipc_schema.message import WakuMessage, message_hash
from ipc_schema.topics import shard_topic
from tests.support.kernel_process import Dealer, KernelProcess, eventually, kernels, short_directory

CONTENT = "/toychat/2/huilong/proto"
TOPIC = shard_topic(0, 0)


@pytest.fixture
def directory() -> Iterator[Path]:
    with short_directory() as path:
        yield path


def query(dealer: Dealer, **what: object) -> tuple[StoreQueryReply, list[StoredMessage]]:
    """Ask, and expect success."""
    reply: Reply = dealer.ask("store.query", what)
    assert reply.error is None, (reply.error, reply.error.detail)
    found = StoreQueryReply.from_body(reply.body)
    return found, stored_messages(found, reply.blobs) if what.get("include_data") else []


def states(kernel: KernelProcess) -> dict[str, str]:
    health = kernel.dealer().ok("node.health")
    return {protocol["name"]: protocol["state"] for protocol in health["protocols"]}


def publish(dealer: Dealer, count: int, payload: bytes = b"%d") -> list[WakuMessage]:
    """Publish messages with distinct timestamps around now."""
    now = time.time_ns()
    messages = []
    for number in range(count):
        message = WakuMessage(payload % number, CONTENT, timestamp=now + number, meta=b"m")
        body = {"content_topic": CONTENT, "timestamp": message.timestamp, "meta": b"m"}
        reply = dealer.ok("relay.publish", body, message.payload)
        assert reply["message_hash"] == message_hash(TOPIC, message)
        messages.append(message)
    return messages


def test_what_is_relayed_is_archived_and_can_be_asked_for(directory: Path) -> None:
    with kernels(directory, ["--store=true"]) as (store,), _joined(directory, store) as asker:
        assert states(store)["Store"] == "READY"
        dealer = asker.dealer("asker")
        messages = publish(dealer, 30)
        hashes = [message_hash(TOPIC, message) for message in messages]
        eventually(lambda: len(query(dealer, pubsub_topic=TOPIC, limit=100)[0].hashes) == 30)
        peer_id = store.info("MyPeerId")["MyPeerId"]

        # pages, forward and backward, with data
        first, found = query(dealer, content_topics=[CONTENT], include_data=True, limit=7)
        assert first.peer == peer_id
        assert [item.message for item in found] == messages[:7]
        assert {item.pubsub_topic for item in found} == {TOPIC}
        second, _ = query(dealer, content_topics=[CONTENT], limit=7, cursor=first.cursor)
        assert list(second.hashes) == hashes[7:14]
        last, _ = query(dealer, forward=False, limit=5)
        assert list(last.hashes) == hashes[-5:]
        before, _ = query(dealer, forward=False, limit=5, cursor=last.cursor)
        assert list(before.hashes) == hashes[-10:-5]

        # everything in one reply, whichever way
        for forward in (True, False):
            everything, found = query(
                dealer, forward=forward, limit=4, max_messages=2000, include_data=True, peer=peer_id
            )
            assert [item.message for item in found] == messages
            assert everything.cursor is None

        # presence, time windows, both ends inclusive, mixed filters
        unknown = bytes(32)
        presence, _ = query(dealer, hashes=[unknown, *hashes[3:6]], limit=100)
        assert list(presence.hashes) == hashes[3:6]
        window, _ = query(dealer, time_start=messages[4].timestamp, time_end=messages[6].timestamp)
        assert list(window.hashes) == hashes[4:7]
        mixed, _ = query(
            dealer, hashes=hashes[:9], time_start=messages[7].timestamp, content_topics=[CONTENT]
        )
        assert list(mixed.hashes) == hashes[7:9]
        assert query(dealer, content_topics=["/other"])[0].hashes == ()

        # errors
        error = dealer.ask("store.query", {"cursor": unknown}).error
        assert error is not None
        assert (error.code, error.retriable) == ("bad_request", False)
        attempts: Any = error.detail["attempts"]
        (attempt,) = attempts
        assert (attempt["peer"], attempt["status"]) == (peer_id, 300)
        assert dealer.code("store.query", {"hashes": [b"short"]}) == "bad_request"
        assert dealer.code("store.query", {"peer": "16Uiu2HAstranger"}) == "no_peers"
        assert dealer.code("store.query", {"peer": asker.info("MyPeerId")["MyPeerId"]}) == "not_ready"

        # the store asks itself, over no network
        own, found = query(store.dealer("own"), peer=peer_id, include_data=True, max_messages=3)
        assert [item.message for item in found] == messages[:3]
        assert own.cursor == hashes[2]


def test_an_archive_outlives_its_node_and_relay_is_not_needed_to_ask(directory: Path) -> None:
    with kernels(directory, ["--store=true", "--tcp-port=0"]) as (store,):
        dealer = store.dealer("writer")
        now = time.time_ns()
        body = {"content_topic": CONTENT, "timestamp": now}
        assert dealer.code("relay.publish", body, b"kept") == "no_peers"  # and archived all the same
        body = {"content_topic": CONTENT, "timestamp": now + 1, "ephemeral": True}
        assert dealer.code("relay.publish", body, b"not kept") == "no_peers"
        body = {"content_topic": CONTENT, "timestamp": now - 60_000_000_000}
        assert dealer.code("relay.publish", body, b"too old") == "no_peers"
        peer_id = store.info("MyPeerId")["MyPeerId"]
        eventually(lambda: query(dealer, peer=peer_id)[0].hashes)
        assert store.stop() == 0
        store.start()
        edge = KernelProcess(
            directory / "edge", "--relay=false", f"--storenode={store.address()}", "--store=false"
        )
        with edge:
            eventually(lambda: states(edge)["Store Client"] == "READY")
            assert states(edge)["Store"] == states(edge)["Relay"] == "NOT_MOUNTED"
            found, messages = query(edge.dealer(), include_data=True)
            assert [item.message.payload for item in messages] == [b"kept"]
            assert found.cursor is None
        # a peer that is not connected can be named by its address
        with KernelProcess(directory / "dials", "--relay=false") as dials:
            dealer = dials.dealer()
            assert dealer.code("store.query", {}) == "no_peers"
            assert len(query(dealer, peer=store.address())[0].hashes) == 1
            assert len(query(dealer)[0].hashes) == 1  # connected now


def test_a_store_that_dies_is_passed_over(directory: Path) -> None:
    with (
        kernels(directory, ["--store=true"], ["--store=true"]) as (one, two),
        KernelProcess(
            directory / "asker",
            f"--staticnode={one.address()}",
            f"--staticnode={two.address()}",
            "--shard=0",
        ) as asker,
    ):
        dealer = asker.dealer("asker")
        eventually(lambda: len(dealer.ok("relay.mesh", {})["topics"].get(TOPIC, ())) == 2)
        publish(dealer, 3)
        ids = [kernel.info("MyPeerId")["MyPeerId"] for kernel in (one, two)]
        for peer_id in ids:
            eventually(lambda peer_id=peer_id: len(query(dealer, peer=peer_id)[0].hashes) == 3)
        assert one.process is not None
        one.process.kill()
        for _ in range(4):
            found, _ = query(dealer)
            assert (found.peer, len(found.hashes)) == (ids[1], 3)


def test_a_limited_store_says_so(directory: Path) -> None:
    limited = ["--store=true", "--rate-limit=store:3/1h"]
    with kernels(directory, limited) as (store,), _joined(directory, store) as asker:
        dealer = asker.dealer()
        for _ in range(3):
            query(dealer)
        error = dealer.ask("store.query", {}).error
        assert error is not None
        assert (error.code, error.retriable) == ("rate_limited", True)
        metrics = {
            (name, labels.get("state")): value
            for name, labels, value in store.dealer().ok("node.metrics")["metrics"]
            if labels.get("service") == "/vac/waku/store-query/3.0.0"
        }
        assert metrics["logos_delivery_service_requests", "served"] == 3
        assert metrics["logos_delivery_service_requests", "rejected"] >= 1  # and asked again in vain


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--store=true", "--store-message-db-url=mysql://x/y"], "store-message-db-url:"),
        (["--store=true", "--store-message-retention-policy=forever"], "retention policy"),
        (["--rate-limit=quick"], "rate-limit"),
        (["--storenode=/ip4/127.0.0.1/tcp/1"], "the peer id is missing"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused_at_start(
    directory: Path, options: list[str], text: str
) -> None:
    command = [sys.executable, "-m", "kernel_proc", f"--data-dir={directory / 'k'}", "--tcp-port=0", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 78
    assert text in done.stderr + done.stdout


def _joined(directory: Path, store: KernelProcess) -> KernelProcess:
    """A kernel in the mesh of the store's shard, started when it is entered."""
    return _Joined(directory / "asker", f"--staticnode={store.address()}", "--shard=0")


class _Joined(KernelProcess):
    def __enter__(self) -> KernelProcess:  # type: ignore[override]
        super().__enter__()
        dealer = self.dealer()
        eventually(lambda: dealer.ok("relay.mesh", {})["topics"].get(TOPIC))
        return self
