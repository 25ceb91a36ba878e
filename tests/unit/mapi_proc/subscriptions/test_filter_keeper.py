"""The shell around the filter plan: its requests, the peers it blames, its notices, and waiting."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import cast

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.frames import Reply
from ipc_schema.kernel.filter import (
    FILTER_PING,
    FILTER_SUBSCRIBE,
    FilterPeer,
    FilterPingReply,
    FilterSubscribeReply,
    FilterSubscribeRequest,
    FilterUnsubscribeReply,
    FilterUnsubscribeRequest,
)
from ipc_schema.kernel.records import NodeHealth, PeerRecord, ShardHealth
from mapi_proc.kernel_link.link import KernelLink
from mapi_proc.kernel_link.tracker import Missed
from mapi_proc.peers import FILTER, ServicePeers
from mapi_proc.subscriptions.filter_keeper import FilterKeeper
from tests.support.aio import asyncio_test

A, B = "/app/1/a/proto", "/app/1/b/proto"
PUBSUB = "/waku/2/rs/7/3"
SECOND = 1_000_000_000


class Setting:
    """A keeper, and a kernel on cluster 7 that does what it is asked."""

    def __init__(self, *names: str) -> None:
        self.up = True
        self.held: dict[str, set[str]] = {}
        self.wanted: dict[int, set[str]] = {}
        self.reported = 0
        self.missed: list[tuple[int, Missed]] = []
        self.requests: list[str] = []
        self.failure: IpcError | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.silent: set[str] = set()
        self.now_ns = 1000 * SECOND
        self.peers = ServicePeers(time.monotonic, lambda: 0.5)
        self.list_peers(*names)
        self.keeper = FilterKeeper(
            cast("KernelLink", self),
            self.peers,
            lambda: self.wanted,
            clock=time.monotonic,
            now_ns=lambda: self.now_ns,
            changed=self._changed,
            missed=lambda shard, missed: self.missed.append((shard, missed)),
        )
        self.keeper.kernel_up()

    def _changed(self) -> None:
        self.reported += 1

    def list_peers(self, *names: str) -> None:
        self.peers.update(PeerRecord(peer_id=name, protocols=FILTER) for name in names)

    def want(self, *topics: str) -> None:
        self.wanted = {3: set(topics)}
        self.keeper.topics_changed()
        self.keeper.leased(3, b"instance", b"epoch")

    def health(self) -> None:
        shard = ShardHealth(shard=3, pubsub_topic=PUBSUB, filter_peers=len(self.held), health="")
        self.keeper.health(NodeHealth(state="READY", shards=(shard,)))

    async def request(
        self, method: str, body: Mapping[str, object] | None = None, *, timeout: float = 10.0
    ) -> Reply:
        """The kernel's part."""
        self.requests.append(method)
        await self.gate.wait()
        if self.failure is not None and method == FILTER_SUBSCRIBE:
            raise self.failure
        answer = self._answer(method, dict(body or {}))
        return Reply(bytes(16), 0, bytes(16), answer, ())

    def _answer(self, method: str, body: dict[str, object]) -> dict[str, object]:
        if method == FILTER_PING:
            asked = tuple(FilterPeer(peer=p, status=None if p in self.silent else 200) for p in self.held)
            return FilterPingReply(peers=asked, held=self._held()).to_body()
        if method == FILTER_SUBSCRIBE:
            request = FilterSubscribeRequest.from_body(body)
            assert request.shard == 3
            assert request.peer is not None
            self.held.setdefault(request.peer, set()).update(request.content_topics)
            self.health()
            return FilterSubscribeReply(peer=request.peer, pubsub_topic=PUBSUB, held=self._held()).to_body()
        leave = FilterUnsubscribeRequest.from_body(body)
        for peer in list(self.held):
            self.held[peer] -= set(leave.content_topics)
            if not self.held[peer]:
                del self.held[peer]
        self.health()
        return FilterUnsubscribeReply(held=self._held(), errors={}).to_body()

    def _held(self) -> dict[str, dict[str, tuple[str, ...]]]:
        return {PUBSUB: {peer: tuple(sorted(topics)) for peer, topics in self.held.items()}}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.keeper.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def until(self, check: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not check():
                await asyncio.sleep(0.005)


@asyncio_test()
async def test_what_apps_want_is_held_and_reported_and_taken_back() -> None:
    setting = Setting("p", "q", "r")
    async with setting.running():
        setting.want(A, B)
        await setting.keeper.wait_held({3: [A, B]}, 5.0)
        await setting.until(lambda: list(setting.held.values()) == [{A, B}, {A, B}])
        assert setting.keeper.plan.strength(3) == 2
        assert setting.reported
        counters = {"subscribe": 2, "unsubscribe": 0, "audit": 1, "failed": 0}
        assert setting.keeper.to_body() == {"held": {"3": dict.fromkeys(setting.held, 2)}, **counters}
        setting.want(A)
        await setting.until(lambda: list(setting.held.values()) == [{A}, {A}])
        assert setting.missed == []


@asyncio_test()
async def test_waiting_ends_at_once_when_no_peer_could_push() -> None:
    setting = Setting()
    async with setting.running():
        setting.want(A)
        await setting.keeper.wait_held({3: [A]}, 1000.0)
        setting.list_peers("p")
        setting.keeper.peers_changed()
        setting.gate.clear()
        await setting.keeper.wait_held({3: [A]}, 0.2)
        assert not any(setting.held.values()), "one that could is waited for, but not for ever"
        setting.gate.set()
        await setting.keeper.wait_held({3: [A]}, 5.0)
        assert set(setting.held) == {"p"}


@asyncio_test()
async def test_a_peer_is_blamed_for_what_it_did_and_not_for_what_the_kernel_did() -> None:
    setting = Setting("p")
    setting.failure = IpcError(ErrorCode.BUSY, "too many requests in flight")
    async with setting.running():
        setting.want(A)
        await setting.until(lambda: setting.keeper.counters["failed"] == 1)
        assert setting.peers.free(FILTER, 3) == ["p"]
        setting.failure = IpcError(
            ErrorCode.NO_PEERS,
            "unknown",
            detail={"attempts": [{"peer": "p", "error": "silence", "unanswered": True}]},
        )
        await setting.until(lambda: setting.keeper.counters["failed"] == 2)
        assert setting.peers.free(FILTER, 3) == []
        setting.failure = None
        await setting.until(lambda: set(setting.held) == {"p"})


@asyncio_test()
async def test_the_time_before_a_silent_peer_was_given_up_counts_as_missed() -> None:
    setting = Setting("p")
    async with setting.running():
        setting.want(A)
        await setting.until(lambda: bool(setting.held))
        heard = setting.now_ns
        setting.silent = {"p"}
        setting.now_ns += 45 * SECOND
        setting.list_peers()
        setting.keeper.peers_changed()
        await setting.until(lambda: bool(setting.missed))
        assert setting.missed == [(3, Missed(heard, setting.now_ns, "filter peers had been silent"))]
        await asyncio.sleep(0)
        assert len(setting.missed) == 1


@asyncio_test()
async def test_a_peer_that_just_leaves_and_a_kernel_that_goes_down_are_no_silence() -> None:
    setting = Setting("p")
    async with setting.running():
        setting.want(A)
        await setting.until(lambda: bool(setting.held))
        setting.now_ns += 30 * SECOND
        setting.list_peers()
        setting.keeper.peers_changed()
        setting.held.clear()
        setting.list_peers("p")
        setting.keeper.peers_changed()
        await setting.until(lambda: bool(setting.held))
        setting.keeper.kernel_down()
        setting.held.clear()
        setting.now_ns += 300 * SECOND
        setting.keeper.kernel_up()
        setting.keeper.leased(3, b"another", b"epoch")
        await setting.until(lambda: bool(setting.held))
        assert setting.missed == []
