"""Keep an edge node's filter subscriptions in line with its apps' topics: the shell around `FilterPlan`.

It takes changes (apps' topics, the kernel and its health, the peer list, leases), makes the requests that
the plan decides on, and reports changes in what is held.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ipc_schema.errors import IpcError
from ipc_schema.kernel.filter import (
    FILTER_PING,
    FILTER_SUBSCRIBE,
    FILTER_UNSUBSCRIBE,
    FilterPingReply,
    FilterSubscribeReply,
    FilterSubscribeRequest,
    FilterUnsubscribeReply,
    FilterUnsubscribeRequest,
    Held,
)
from ipc_schema.kernel.records import NodeHealth
from ipc_schema.topics import PubsubTopic, TopicError
from mapi_proc.kernel_link.link import KernelLink
from mapi_proc.kernel_link.tracker import Missed
from mapi_proc.peers import FILTER, ServicePeers
from mapi_proc.subscriptions.filter_plan import FilterPlan
from mapi_proc.subscriptions.filter_state import Action, Audit, Leave, Subscribe, Unsubscribe

log = logging.getLogger(__name__)

_SUBSCRIBE_TIMEOUT: Final = 12.0
_TIMEOUT: Final = 20.0
_EXPOSED_NS: Final = 10_000_000_000
"""Shorter ones are within reach of the catch-up that follows the kernel's restart."""
_UNHEARD_NS: Final = 35_000_000_000
"""Shorter ones are within reach of the catch-up that follows the loss of the last peer, which starts 40 s
before it. Longer than the audit interval, so that a peer that leaves is not taken for a silent one."""
_INCOMPLETE: Final = "filter subscriptions incomplete"
_SILENT: Final = "filter peers had been silent"


@dataclass(eq=False)
class FilterKeeper:
    """Keeps the filter subscriptions of one edge node."""

    link: KernelLink
    peers: ServicePeers
    wanted: Callable[[], Mapping[int, Collection[str]]]
    """Return all content topics of all apps by shard."""
    clock: Callable[[], float]
    now_ns: Callable[[], int]
    changed: Callable[[], None]
    """Called when what is held has changed."""
    missed: Callable[[int, Missed], None]
    """Called when messages may have been missed that the kernel cannot know of."""

    def __post_init__(self) -> None:
        self.plan = FilterPlan(self.peers, self.clock)
        self.counters = {"subscribe": 0, "unsubscribe": 0, "audit": 0, "failed": 0}
        self._wake = asyncio.Event()
        self._news = asyncio.Condition()
        self._exposed: dict[int, int] = {}
        self._heard: dict[int, int] = {}
        """Shard -> when (wall clock, ns) the latest ping was sent that a peer answered: it pushes to us."""
        self._dirty = True

    def to_body(self) -> dict[str, object]:
        """Return, for operators, the peers that hold something, by shard, with the number of content topics;
        and the requests.
        """
        plan = self.plan
        return {"held": {str(shard): plan.held_by(shard) for shard in plan.shards}, **self.counters}

    def pushing(self, shards: Iterable[int]) -> dict[int, int]:
        """Return, per shard, the number of peers that push what is wanted on it.

        Shards without an answer yet are left out.
        """
        return {shard: n for shard in shards if (n := self.plan.strength(shard)) is not None}

    # -- input -------------------------------------------------------------------------------------------

    def topics_changed(self) -> None:
        """Handle a change of the apps' topics."""
        self._dirty = True
        self._wake.set()

    def kernel_up(self) -> None:
        """Handle the kernel's hello."""
        self.plan.kernel_up()
        self._wake.set()

    def kernel_down(self) -> None:
        """Handle a kernel that does not answer."""
        self.plan.kernel_down()
        self._heard.clear()  # the link knows since when the kernel was silent
        self._wake.set()

    def leased(self, shard: int, instance: bytes, epoch: bytes) -> None:
        """Handle a lease: the kernel records a shard for us."""
        self._take_wanted()
        self.plan.leased(shard, instance, epoch)
        self._wake.set()

    def health(self, health: NodeHealth) -> None:
        """Take the kernel's counts."""
        self.plan.counted({shard.shard: shard.filter_peers for shard in health.shards})
        self._wake.set()

    def peers_changed(self) -> None:
        """Handle a new list in `ServicePeers`."""
        self.plan.peers_changed()
        self._notify()
        self._wake.set()

    # -- work --------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._wake.clear()
                self._take_wanted()
                for action in self.plan.decide():
                    group.create_task(self._act(action), name=f"filter {action}")
                self._watch()
                due = self.plan.wake_at()
                try:
                    async with asyncio.timeout(None if due is None else max(0.0, due - self.clock())):
                        await self._wake.wait()
                except TimeoutError:
                    pass

    def _take_wanted(self) -> None:
        if self._dirty:
            self._dirty = False
            self.plan.want(self.wanted())

    async def _act(self, action: Action) -> None:
        try:
            await self._ask(action)
        except IpcError as error:
            self.counters["failed"] += 1
            # Only if the kernel reports attempts has it asked a peer.
            blame = bool((error.detail or {}).get("attempts"))
            log.log(logging.INFO if blame else logging.DEBUG, "filter: %s: %s", _named(action), error)
            self.plan.failed(action, blame=blame)
        else:
            self.plan.done(action)
        self._notify()
        self._wake.set()
        async with self._news:
            self._news.notify_all()

    async def _ask(self, action: Action) -> None:
        body: dict[str, Any]
        asked = self.now_ns()
        match action:
            case Audit():
                self.counters["audit"] += 1
                reply = await self.link.request(FILTER_PING, timeout=_TIMEOUT)
                reply_body = FilterPingReply.from_body(reply.body)
                self.plan.held(_by_shard(reply_body.held))
                answered = {one.peer for one in reply_body.peers if one.status is not None}
                self._confirmed(asked, answered)
            case Subscribe(shard=shard, peer=peer, topics=topics):
                self.counters["subscribe"] += 1
                body = FilterSubscribeRequest(content_topics=topics, shard=shard, peer=peer).to_body()
                reply = await self.link.request(FILTER_SUBSCRIBE, body, timeout=_SUBSCRIBE_TIMEOUT)
                held = _by_shard(FilterSubscribeReply.from_body(reply.body).held)
                self.plan.held(held, (shard,))
                self._confirmed(asked, {peer})
            case Unsubscribe() | Leave():
                self.counters["unsubscribe"] += 1
                request = FilterUnsubscribeRequest(
                    content_topics=action.topics,
                    shard=action.shard,
                    peer=action.peer if isinstance(action, Unsubscribe) else None,
                )
                reply = await self.link.request(FILTER_UNSUBSCRIBE, request.to_body(), timeout=_TIMEOUT)
                self.plan.held(_by_shard(FilterUnsubscribeReply.from_body(reply.body).held))

    def _confirmed(self, asked: int, peers: set[str]) -> None:
        for shard in self.plan.shards:
            if not peers.isdisjoint(self.plan.held_by(shard)):
                self._heard[shard] = asked

    def _notify(self) -> None:
        self._watch()
        self.changed()

    def _watch(self) -> None:
        """Find gaps that the kernel's coverage cannot show: topics that a restarted kernel was not asked for
        yet, and the time before a silent peer was given up, if it was the last one of its shard.
        """
        now = self.now_ns()
        for shard in [shard for shard in self._heard if not self.plan.held_by(shard)]:
            since = self._heard.pop(shard)
            if now - since >= _UNHEARD_NS and shard in self.plan.shards:
                self.missed(shard, Missed(since, now, _SILENT))
        for shard in self.plan.shards:
            if self.plan.exposed(shard):
                self._exposed.setdefault(shard, now)
            else:
                since = self._exposed.pop(shard, now)
                if now - since >= _EXPOSED_NS:
                    self.missed(shard, Missed(since, now, _INCOMPLETE))

    # -- waiting -----------------------------------------------------------------------------------------

    async def wait_held(self, topics: Mapping[int, Collection[str]], timeout: float) -> None:
        """Wait until each of these topics is pushed by some peer.

        Waits at most `timeout` seconds, and not at all without a filter service or in a flood of changes.
        """
        self._take_wanted()

        def over() -> bool:
            if not self.link.up or self.plan.throttled or not self.plan.lacks(topics):
                return True
            return not any(self.peers.count(FILTER, shard) for shard in topics)

        try:
            async with asyncio.timeout(timeout), self._news:
                await self._news.wait_for(over)
        except TimeoutError:
            pass


def _by_shard(held: Held) -> dict[int, Mapping[str, Collection[str]]]:
    found: dict[int, Mapping[str, Collection[str]]] = {}
    for topic, peers in held.items():
        try:
            found[PubsubTopic.parse(topic).shard] = peers
        except TopicError:
            log.warning("the kernel sent an invalid pubsub topic: %r", topic)
    return found


def _named(action: Action) -> str:
    match action:
        case Subscribe(shard=shard, peer=peer, topics=topics):
            return f"{len(topics)} topics of shard {shard} at {peer}"
        case Unsubscribe() | Leave():
            return f"taking back {len(action.topics)} topics of shard {action.shard}"
        case _:
            return "what is held"
