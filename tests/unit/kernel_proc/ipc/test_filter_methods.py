"""filter.subscribe, filter.unsubscribe and filter.ping as a consumer calls them, with peers in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest
import trio

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.frames import Request
from ipc_schema.server import Call, Caller, Route
from kernel_proc.ipc.consumers import Consumer
from kernel_proc.ipc.events import EventPublisher
from kernel_proc.ipc.methods import filter as methods
from kernel_proc.ipc.methods.filter import filter_routes
from kernel_proc.metrics import Registry
from kernel_proc.protocols.filter.client import FilterClient
from kernel_proc.protocols.filter.pushes import PushSink
from kernel_proc.protocols.filter.service import FilterService
from kernel_proc.protocols.peer_select import PeerRanking, ServicePeerChoice
from kernel_proc.shards import Shards
from tests.support.memory_hosts import MemoryNetwork, memory_network
from tests.support.mock_clock import mock_clock_test

TOPIC = "/waku/2/rs/1/0"
CONTENTS = [f"/app/1/topic{number}/proto" for number in range(9)]


class House:
    """A kernel without relay on one shard, and the filter service `p` beside it."""

    def __init__(self, network: MemoryNetwork, nursery: trio.Nursery) -> None:
        self.host = network.host("us")
        registry = Registry("")
        publisher = EventPublisher(
            instance=bytes(16), cluster=1, shard_count=1, replay_bytes=1 << 20, registry=registry
        )
        self.shards = Shards(
            publisher, cluster=1, shard_count=1, lease_ttl=3600.0, static=(), registry=registry
        )
        self.client = FilterClient(
            self.host,
            ServicePeerChoice(self.host, PeerRanking(trio.current_time, Random(1)), lambda _peer: None, {}),
            registry,
            PushSink(self.shards.deliver_filtered, 10_000),
            is_leased=self.shards.is_leased,
            changed=self.shards.filter_changed,
        )
        self.client.mount()
        self.shards.filter_client = self.client
        self.shards.start(None)
        self.routes: Mapping[str, Route] = filter_routes(self.client, self.shards, 1, 1)
        service = FilterService(network.host("p"), Registry(""))
        service.requests.mount()
        nursery.start_soon(service.run)
        nursery.start_soon(self.client.run)

    async def ask(self, method: str, consumer: str = "x", **body: object) -> dict[str, Any]:
        route = self.routes[method]
        request = Request(bytes(16), method, 0, 0, body, ())
        call = Call(
            request,
            Caller(b""),
            Consumer(consumer, "tool", named=True),
            trio.current_time() + 30.0,
            route,
        )
        return dict((await route.handler(call))[0])


@asynccontextmanager
async def house() -> AsyncIterator[House]:
    async with memory_network() as network, trio.open_nursery() as nursery:
        one = House(network, nursery)
        one.shards.acquire("x", [0])
        one.shards.acquire("y", [0])
        yield one
        nursery.cancel_scope.cancel()


@mock_clock_test
async def test_a_peer_may_be_named_by_its_address() -> None:
    async with house() as one:
        await one.ask("filter.subscribe", content_topics=CONTENTS[:2])
        asked = await one.ask("filter.ping", peer="/ip4/127.0.0.1/tcp/60000/p2p/p")
        assert asked["peers"] == [{"peer": "p", "status": 200}]
        left = await one.ask(
            "filter.unsubscribe", content_topics=CONTENTS[:1], peer="/dns4/x.org/tcp/1/p2p/p"
        )
        assert left == {"held": {TOPIC: {"p": [CONTENTS[1]]}}, "errors": {}}
        (unreachable,) = (await one.ask("filter.ping", peer="/ip4/127.0.0.1/tcp/1/p2p/stranger"))["peers"]
        assert unreachable["peer"] == "stranger"
        assert "status" not in unreachable


@mock_clock_test
async def test_subscriptions_are_bounded_and_what_one_has_is_not_counted_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(methods, "MAX_SUBSCRIPTIONS", 4)
    async with house() as one:
        await one.ask("filter.subscribe", content_topics=CONTENTS[:4])
        with pytest.raises(IpcError, match="4 subscriptions are held") as caught:
            await one.ask("filter.subscribe", "y", content_topics=CONTENTS[:1])
        assert caught.value.code is ErrorCode.BUSY
        # Asking again makes sure that the peer still has everything: that must be possible at the bound.
        again = await one.ask("filter.subscribe", content_topics=CONTENTS[:4])
        assert again["held"] == {TOPIC: {"p": CONTENTS[:4]}}


@mock_clock_test
async def test_requests_at_once_do_not_get_past_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "MAX_SUBSCRIPTIONS", 4)
    async with house() as one:
        outcomes: list[str] = []

        async def ask(number: int) -> None:
            try:
                await one.ask("filter.subscribe", content_topics=[CONTENTS[number]])
            except IpcError as error:
                outcomes.append(str(error.code))
            else:
                outcomes.append("ok")

        async with trio.open_nursery() as nursery:
            for number in range(9):
                nursery.start_soon(ask, number)
        assert sorted(outcomes) == ["busy"] * 5 + ["ok"] * 4
        assert len(one.client.interests) == 4
        await one.ask("filter.unsubscribe")
        await one.ask("filter.subscribe", content_topics=CONTENTS[:4])  # nothing stays reserved
