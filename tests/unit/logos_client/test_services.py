"""What a kernel's client asks of other nodes: what goes out, what is made of the answer, on both loops."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.frames import Request
from ipc_schema.kernel.filter import FilterPeer
from ipc_schema.kernel.store import store_blobs
from logos_client import BadRequestError, ClosedError, KernelClient, NoPeersError, NotReadyError, WakuMessage
from tests.unit.logos_client.kernel import MiniKernel
from tests.unit.logos_client.server import Answer
from tests.unit.logos_client.support import both_loops, short_directory

TOPIC = "/app/1/a/proto"
PUBSUB = "/waku/2/rs/42/0"
PEER = "16Uiu2"
HASHES = [bytes([number]) * 32 for number in range(3)]


@asynccontextmanager
async def asked(
    method: str, answer: Answer | IpcError, blobs: Iterable[bytes] = ()
) -> AsyncIterator[tuple[KernelClient, list[Request]]]:
    """A client, and the requests of one method that it makes."""
    requests: list[Request] = []

    def handle(_identity: bytes, request: Request) -> Answer:
        requests.append(request)
        if isinstance(answer, IpcError):
            raise answer
        assert isinstance(answer, dict)
        return answer, list(blobs)

    with short_directory() as directory:
        (directory / "kernel").mkdir()
        server = MiniKernel(directory / "kernel")
        server.handlers[method] = handle
        try:
            async with KernelClient.connect(directory) as client:
                yield client, requests
        finally:
            server.close()


def body(requests: list[Request]) -> dict[str, Any]:
    """The fields of the last request, without those that are empty or off."""
    fields = requests[-1].body.items()
    return {
        key: value for key, value in fields if not (value is None or value is False or value in ([], b""))
    }


@both_loops()
async def test_a_page_with_data() -> None:
    messages = [WakuMessage(b"%d" % number, TOPIC, timestamp=number) for number in range(3)]
    answer = {"peer": PEER, "hashes": HASHES, "cursor": HASHES[2]}
    blobs = store_blobs((PUBSUB, message) for message in messages)
    async with asked("store.query", answer, blobs) as (client, requests):
        page = await client.store_query(
            TOPIC, pubsub_topic=PUBSUB, time_start=1, time_end=9, limit=3, include_data=True, timeout=5.0
        )
        assert body(requests) == {
            "content_topics": [TOPIC],
            "pubsub_topic": PUBSUB,
            "time_start": 1,
            "time_end": 9,
            "limit": 3,
            "include_data": True,
            "forward": True,
        }
        assert 4000 < requests[-1].budget_ms <= 5000
        assert (page.peer, page.hashes, page.cursor) == (PEER, tuple(HASHES), HASHES[2])
        assert [stored.message for stored in page.messages] == messages
        assert [stored.message_hash for stored in page.messages] == HASHES
        assert {stored.pubsub_topic for stored in page.messages} == {PUBSUB}


@both_loops()
async def test_presence_and_cursors() -> None:
    async with asked("store.query", {"peer": PEER, "hashes": HASHES[:1]}) as (client, requests):
        page = await client.store_query(
            hashes=(digest for digest in HASHES), cursor=HASHES[1], forward=False, max_messages=7, peer=PEER
        )
        assert body(requests) == {
            "hashes": HASHES,
            "cursor": HASHES[1],
            "limit": 20,
            "max_messages": 7,
            "peer": PEER,
        }
        assert (page.hashes, page.messages, page.cursor) == ((HASHES[0],), (), None)


@both_loops()
async def test_an_answer_without_its_messages_is_an_error() -> None:
    async with asked("store.query", {"peer": PEER, "hashes": HASHES}) as (client, _):
        with pytest.raises(BadRequestError, match="3 messages need 6 blobs"):
            await client.store_query(TOPIC, include_data=True)


@both_loops()
async def test_publishing_through_another_node() -> None:
    answer = {
        "message_hash": HASHES[0],
        "timestamp": 5,
        "pubsub_topic": PUBSUB,
        "peer": PEER,
        "relay_peers": 3,
    }
    async with asked("lightpush.publish", answer) as (client, requests):
        done = await client.lightpush_publish(TOPIC, b"hello", shard=0, timestamp=5, meta=b"m", peer=PEER)
        assert body(requests) == {
            "content_topic": TOPIC,
            "timestamp": 5,
            "meta": b"m",
            "peer": PEER,
            "shard": 0,
            "version": 0,
        }
        assert requests[-1].blobs == [b"hello"]
        assert (done.message_hash, done.relay_peers) == (HASHES[0], 3)


@both_loops()
async def test_errors_tell_the_attempts() -> None:
    detail = {"attempts": [{"peer": PEER, "error": "505 No peers", "status": 505}]}
    async with asked("lightpush.publish", IpcError(ErrorCode.NO_PEERS, "why", detail=detail)) as (client, _):
        with pytest.raises(NoPeersError) as caught:
            await client.lightpush_publish(TOPIC, b"hello")
        assert caught.value.detail == detail


@both_loops()
async def test_filter() -> None:
    held = {PUBSUB: {PEER: [TOPIC]}}
    answer: dict[str, object] = {"peer": PEER, "pubsub_topic": PUBSUB, "held": held}
    async with asked("filter.subscribe", answer) as (client, requests):
        done = await client.filter_subscribe(iter([TOPIC]), exclude={"other"})
        assert body(requests) == {"content_topics": [TOPIC], "exclude": ["other"]}
        assert (done.peer, done.held) == (PEER, {PUBSUB: {PEER: (TOPIC,)}})
    async with asked("filter.unsubscribe", {"held": {}, "errors": {PEER: "gone"}}) as (client, requests):
        left = await client.filter_unsubscribe(TOPIC, pubsub_topic=PUBSUB, peer=PEER)
        assert body(requests) == {"content_topics": [TOPIC], "pubsub_topic": PUBSUB, "peer": PEER}
        assert (left.held, left.errors) == ({}, {PEER: "gone"})
        await client.filter_unsubscribe()
        assert body(requests) == {}
    async with asked("filter.ping", {"peers": [{"peer": PEER, "status": 404}], "held": {}}) as (client, _):
        assert (await client.filter_ping(PEER)).peers == (FilterPeer(peer=PEER, status=404),)


@both_loops()
async def test_peer_exchange() -> None:
    async with asked("peer_exchange.request", {"peer": PEER, "enrs": [b"one", b"two"]}) as (client, requests):
        found = await client.peer_exchange(9, peer=PEER)
        assert body(requests) == {"count": 9, "peer": PEER}
        assert found.enrs == (b"one", b"two")
    with pytest.raises(ClosedError):
        await client.peer_exchange()


@both_loops()
async def test_discv5_is_turned_on_and_off_and_given_boot_nodes() -> None:
    async with asked("discovery.start", {"running": True, "changed": False}) as (client, requests):
        started = await client.discovery_start()
        assert (started.running, started.changed) == (True, False)
        assert requests[-1].body == {}
    async with asked("discovery.stop", {"running": False, "changed": True}) as (client, _):
        assert (await client.discovery_stop()).changed
    async with asked("discovery.bootnodes", {"boot_nodes": 3}) as (client, requests):
        assert await client.discovery_bootnodes("enr:-one") == 3
        assert body(requests) == {"enrs": ["enr:-one"]}
        await client.discovery_bootnodes(iter(["enr:-one", "enr:-two"]), add=True)
        assert body(requests) == {"enrs": ["enr:-one", "enr:-two"], "add": True}
    refused = IpcError(ErrorCode.NOT_READY, "discv5 cannot listen: Address already in use")
    async with asked("discovery.start", refused) as (client, _):
        with pytest.raises(NotReadyError, match="already in use"):
            await client.discovery_start()


@both_loops()
async def test_a_list_in_the_dns() -> None:
    answer: dict[str, object] = {"seq": 7, "enrs": ["enr:-one"], "complete": False, "errors": ["a loop"]}
    async with asked("discovery.list", answer) as (client, requests):
        found = await client.discovery_list("enrtree://k@d", name_server="127.0.0.1:53", use=False, timeout=3)
        assert body(requests) == {"url": "enrtree://k@d", "name_server": "127.0.0.1:53"}
        assert 2000 < requests[-1].budget_ms <= 3000
        assert (found.seq, found.enrs, found.complete, found.errors) == (7, ("enr:-one",), False, ("a loop",))
        await client.discovery_list("enrtree://k@d")
        assert body(requests) == {"url": "enrtree://k@d", "use": True}
    with pytest.raises(ClosedError):
        await client.discovery_list("enrtree://k@d")


@both_loops()
async def test_a_node_is_asked_for_the_nodes_it_knows() -> None:
    record: dict[str, object] = {"enr": "enr:-one", "seq": 1, "peer_id": PEER}
    answer: dict[str, object] = {"node": record, "answered": True, "nodes": [{**record, "capabilities": []}]}
    async with asked("discovery.find_node", answer) as (client, requests):
        found = await client.find_node("enr:-one", iter([0, 256]))
        assert body(requests) == {"enr": "enr:-one", "distances": [0, 256]}
        assert (found.answered, found.node.capabilities, found.nodes[0].capabilities) == (True, None, ())
    with pytest.raises(ClosedError):
        await client.find_node("enr:-one")


@both_loops()
async def test_known_peers_and_the_state_of_discovery() -> None:
    row = {"peer_id": PEER, "failures": 2, "retry_ms": 9000, "why": "connection refused"}
    async with asked("peers.known", {"total": 40, "peers": [row]}) as (client, requests):
        known = await client.known_peers(1)
        assert body(requests) == {"limit": 1}
        assert known.total == 40
        assert (known.peers[0].retry_ms, known.peers[0].why) == (9000, "connection refused")
    status = {"online": True, "short": True, "known": 3, "enr": "enr:-me", "short_shards": [0, 5]}
    async with asked("discovery.status", status) as (client, _):
        found = await client.discovery()
        assert (found.short_shards, found.short_services, found.discv5.running) == ((0, 5), (), False)
