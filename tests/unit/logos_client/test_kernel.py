"""KernelClient and its feeds against a small kernel on real sockets, on both loops."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.frames import Request
from ipc_schema.kernel import methods
from ipc_schema.kernel.events import HEALTH_TOPIC, PEERS_TOPIC, stream_topic
from ipc_schema.kernel.relay import RELAY_MESH, RELAY_PEERS, RELAY_PUBLISH
from ipc_schema.node_info import NODE_INFO
from logos_client import (
    ClosedError,
    ControlClient,
    EpochChangedError,
    KernelClient,
    KernelFound,
    KernelLost,
    KernelMessage,
    NoPeersError,
    NotReadyError,
    PeersSnapshot,
    StreamLoss,
    TrimmedError,
)
from logos_client.kernel import KernelFeed
from logos_client.kernel_events import HealthEvent, KernelEvent
from tests.unit.logos_client.kernel import CLUSTER, HEALTH, PEER, MiniKernel
from tests.unit.logos_client.server import Answer, ContractServer
from tests.unit.logos_client.support import both_loops, short_directory, until

TOPIC = stream_topic(CLUSTER, 0)


@asynccontextmanager
async def kernel(**options: Any) -> AsyncIterator[tuple[MiniKernel, KernelClient]]:
    with short_directory() as directory:
        (directory / "kernel").mkdir()
        server = MiniKernel(directory / "kernel")
        try:
            async with KernelClient.connect(directory, **options) as client:
                yield server, client
        finally:
            server.close()


async def take(feed: KernelFeed, count: int) -> list[KernelEvent]:
    async with asyncio.timeout(8):
        return [await anext(feed) for _ in range(count)]


async def payloads(feed: KernelFeed, count: int) -> list[bytes]:
    events = await take(feed, count)
    assert all(isinstance(event, KernelMessage) for event in events), events
    return [event.payload for event in events if isinstance(event, KernelMessage)]


@both_loops()
async def test_what_a_client_knows() -> None:
    async with kernel(name="tester") as (server, client):
        assert client.connected
        assert client.consumer == "me"
        assert client.network.cluster == 42
        assert client.instance == server.instance
        assert client.limits.lease_ttl_ms == 60_000
        assert client.server == "test/1"
        assert server.requests[0].body["name"] == "tester"
        assert await client.health() == HEALTH
        assert await client.peers() == [PEER]
    with pytest.raises(ClosedError):
        await client.health()


@both_loops()
async def test_methods_say_what_the_contract_has() -> None:
    async with kernel() as (server, client):
        answers: dict[str, Answer] = {
            RELAY_PUBLISH: {
                "message_hash": bytes(32),
                "timestamp": 5,
                "pubsub_topic": "/waku/2/rs/42/0",
                "peers": 2,
                "duplicate": False,
            },
            RELAY_PEERS: {"topics": {"t": ["a", "b"]}},
            RELAY_MESH: {"topics": {"t": ["a"]}},
            methods.PEERS_CONNECT: {"results": [{"address": "/x", "error": "no"}]},
            methods.PEERS_DISCONNECT: {"disconnected": True},
            NODE_INFO: {"info": {"MyPeerId": "p"}},
            methods.NODE_CONFIG: {"options": [{"name": "o", "type": "int", "value": 1}]},
            methods.NODE_METRICS: {"metrics": [["m", {"l": "v"}, 1.5]]},
        }
        for method, answer in answers.items():
            server.handlers[method] = lambda _identity, _request, answer=answer: answer  # type: ignore[misc]
        reply = await client.publish("/a/1/b/c", b"payload", shard=3, force=True)
        assert (reply.peers, reply.timestamp) == (2, 5)
        assert server.requests[-1].blobs == [b"payload"]
        assert server.requests[-1].body["shard"] == 3
        assert await client.relay_peers() == {"t": ("a", "b")}
        assert await client.mesh("t") == {"t": ("a",)}
        assert server.requests[-1].body == {"pubsub_topic": "t"}
        assert (await client.connect_peers("/x"))[0].error == "no"
        assert await client.disconnect_peer("p")
        assert await client.info(["MyPeerId"]) == {"MyPeerId": "p"}
        assert (await client.config())[0].value == 1
        assert await client.metrics() == [("m", {"l": "v"}, 1.5)]

        def refuse(_identity: bytes, _request: Request) -> Answer:
            raise IpcError(ErrorCode.NO_PEERS, "no peer", detail={"message_hash": bytes(32)})

        server.handlers[RELAY_PUBLISH] = refuse
        with pytest.raises(NoPeersError) as failed:
            await client.publish("/a/1/b/c", b"payload")
        assert failed.value.detail == {"message_hash": bytes(32)}


@both_loops()
async def test_a_feed_gives_each_stream_in_order() -> None:
    async with kernel() as (server, client):
        async with client.events(shards=[0], health=True, peers=True) as feed:
            assert server.leases == [(0,)]
            server.message(b"one")
            server.health()
            server.peer()
            server.message(b"two")
            events = await take(feed, 4)
            first = events[0]
            assert first == KernelMessage(
                "m/42/0",
                server.instance,
                server.streams[TOPIC].epoch,
                1,
                1,
                "/a/1/b/c",
                b"one",
                bytes(32),
                7,
                b"",
                False,
                0,
                b"",
                0,
            )
            assert [event.kind for event in events[1:]] == ["health", "peer", "message"]
        assert server.released == [(0,)]
        assert [event async for event in feed] == []


@both_loops()
async def test_a_gap_is_filled_by_replay() -> None:
    async with kernel() as (server, client), client.events(shards=[0]) as feed:
        server.message(b"0")
        server.losing = 7
        for number in range(1, 10):
            server.message(b"%d" % number)
        assert await payloads(feed, 10) == [b"%d" % number for number in range(10)]
        assert feed.counters.replays >= 3


@both_loops()
async def test_what_comes_while_a_gap_is_filled_is_not_replayed() -> None:
    """A busy stream would otherwise be replayed for ever, for each replay misses what comes behind it."""
    async with kernel() as (server, client), client.events(shards=[0]) as feed:
        server.page = 100
        replay = server.handlers[methods.STREAM_REPLAY]

        def replay_late(identity: bytes, request: Request) -> Answer:
            answer = replay(identity, request)
            for number in range(4, 8):
                server.message(b"%d" % number)
            return answer

        server.handlers[methods.STREAM_REPLAY] = replay_late
        server.message(b"0")
        server.losing = 2
        for number in range(1, 4):
            server.message(b"%d" % number)
        assert await payloads(feed, 8) == [b"%d" % number for number in range(8)]
        assert (feed.counters.replays, feed.buffered_bytes) == (1, 0)


@both_loops()
async def test_a_loss_before_a_silence_shows_in_the_heartbeat() -> None:
    async with kernel() as (server, client), client.events(shards=[0]) as feed:
        server.message(b"0")
        server.losing = 2
        server.message(b"1")
        server.message(b"2")
        assert await payloads(feed, 1) == [b"0"]
        server.heartbeat(TOPIC)
        assert await payloads(feed, 2) == [b"1", b"2"]


@both_loops()
async def test_events_between_the_lease_and_the_subscription_are_fetched() -> None:
    async with kernel() as (server, client):
        await client.lease([0])
        feed = client.events(shards=[0])
        opening = asyncio.create_task(feed.__aenter__())
        await until(lambda: len(server.leases) == 2)
        server.losing = 1
        server.message(b"early")
        await opening
        server.heartbeat(TOPIC)
        assert await payloads(feed, 1) == [b"early"]
        await feed.close()
        assert server.released == []  # the other lease still stands
        await client.release([0])
        assert server.released == [(0,)]


@both_loops()
async def test_what_the_ring_lost_is_said() -> None:
    async with kernel() as (server, client), client.events(shards=[0]) as feed:
        server.losing = 5
        for number in range(5):
            server.message(b"%d" % number)
        server.streams[TOPIC].first = 4
        server.message(b"5")
        assert await take(feed, 1) == [StreamLoss("m/42/0", 1, 3, "no longer in the kernel's ring")]
        assert await payloads(feed, 3) == [b"3", b"4", b"5"]


@both_loops()
async def test_a_busy_replay_is_asked_again() -> None:
    async with kernel() as (server, client), client.events(shards=[0]) as feed:
        server.replay_busy = 2
        server.losing = 1
        server.message(b"0")
        server.message(b"1")
        assert await payloads(feed, 2) == [b"0", b"1"]


@both_loops()
async def test_a_restarted_kernel() -> None:
    async with kernel(name="me") as (server, client), client.events(shards=[0], peers=True) as feed:
        server.message(b"before")
        assert await payloads(feed, 1) == [b"before"]
        server.stop()
        assert isinstance((await take(feed, 1))[0], KernelLost)
        server.start()
        assert await take(feed, 1) == [KernelFound(server.instance, True)]
        await until(lambda: len(server.leases) == 2)
        server.message(b"after")
        server.heartbeat(TOPIC)
        loss, message = [
            event
            for event in await take(feed, 3)
            if not isinstance(event, PeersSnapshot)  # the peers of the kernel before are gone
        ]
        assert loss == StreamLoss("m/42/0", 2, None, "the kernel restarted this stream")
        assert isinstance(message, KernelMessage)
        assert message.payload == b"after"


@both_loops()
async def test_lost_health_and_peers_are_asked_for_as_a_whole() -> None:
    async with kernel() as (server, client), client.events(health=True, peers=True) as feed:
        server.losing = 2
        server.health()
        server.peer()
        server.heartbeat(HEALTH_TOPIC)
        server.heartbeat(PEERS_TOPIC)
        health, peers = await take(feed, 2)
        assert isinstance(health, HealthEvent)
        assert health.health == HEALTH
        assert peers == PeersSnapshot((PEER,))
        server.health()
        assert isinstance((await take(feed, 1))[0], HealthEvent)


@both_loops()
async def test_a_slow_reader_leaves_events_in_the_ring() -> None:
    async with kernel() as (server, client):
        server.page = 5
        async with client.events(shards=[0], max_bytes=100_000) as feed:
            for number in range(200):
                server.message(b"%d" % number * 3_000)
                if number % 20 == 0:
                    await asyncio.sleep(0)
            await until(lambda: feed.buffered_bytes >= 100_000)
            # One page may come on top of a full buffer.
            most = 0
            for number in range(200):
                (event,) = await payloads(feed, 1)
                assert event == b"%d" % number * 3_000
                most = max(most, feed.buffered_bytes)
                if number % 50 == 0:
                    server.heartbeat(TOPIC)
            assert most < 100_000 + 5 * 10_000


@both_loops()
async def test_garbage_on_the_event_socket() -> None:
    async with kernel() as (server, client), client.events(shards=[0]) as feed:
        server.publish(TOPIC)
        server.publish(TOPIC, b"\xc1", b"")
        server.publish(TOPIC, os.urandom(300), os.urandom(300))
        server.publish(TOPIC, b"\x90", b"", b"")
        server.message(b"good")
        assert await payloads(feed, 1) == [b"good"]
        assert feed.counters.garbage == 4


@both_loops()
async def test_leases_are_renewed() -> None:
    with short_directory() as directory:
        (directory / "kernel").mkdir()
        server = MiniKernel(directory / "kernel")
        server.lease_renew_ms = 30
        async with KernelClient.connect(directory) as client:
            states = await client.lease([1, 2])
            assert [state.stream for state in states] == ["m/42/1", "m/42/2"]
            await until(lambda: len(server.leases) >= 4)
            assert set(server.leases) == {(1, 2)}
        assert server.released == [(1, 2)]
        server.close()


@both_loops()
async def test_replay_page_by_page() -> None:
    async with kernel() as (server, client):
        (state,) = await client.lease([0])
        for number in range(4):
            server.message(b"%d" % number)
        events, complete = await client.replay(state.stream, state.epoch, 0)
        assert ([payload for _, payload in events], complete) == ([b"0", b"1", b"2"], False)
        events, complete = await client.replay(state.stream, state.epoch, 3)
        assert ([payload for _, payload in events], complete) == ([b"3"], True)
        with pytest.raises(EpochChangedError):
            await client.replay(state.stream, bytes(8), 0)
        server.streams[TOPIC].first = 3
        with pytest.raises(TrimmedError) as failed:
            await client.replay(state.stream, state.epoch, 0)
        assert failed.value.detail == {"first": 3}


@both_loops()
async def test_a_stream_without_heartbeat_is_not_a_subscription() -> None:
    async with kernel() as (server, client):
        del server.streams[HEALTH_TOPIC]
        feed = client.events(health=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("logos_client._feed._SUBSCRIBE_TIMEOUT", 0.2)
            with pytest.raises(NotReadyError, match="no heartbeat on p"):
                await feed.__aenter__()
        with pytest.raises(ValueError, match="no stream"):
            client.events()


@both_loops()
async def test_control() -> None:
    with short_directory() as directory:
        server = ContractServer(Path(directory / "control"), needs_hello=False)
        answers: dict[str, Answer] = {
            "health": {"ready": True, "state": "READY", "version": "1", "pid": 7, "uptime_ms": 5, "more": 1},
            "shutdown": {},
            "log_level": {"previous": "INFO"},
        }
        for method, answer in answers.items():
            server.handlers[method] = lambda _identity, _request, answer=answer: answer  # type: ignore[misc]
        async with ControlClient.connect(server.endpoint) as control:
            assert (await control.health()).pid == 7
            assert (await control.health_details())["more"] == 1
            assert await control.set_log_level("DEBUG", "x") == "INFO"
            await control.shutdown()
        assert server.methods() == ["health", "health", "log_level", "shutdown"]
        server.close()
