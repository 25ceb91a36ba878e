"""The kernel streams that apps need: a shard is followed while any app subscribes to a topic on it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from mapi_proc.kernel_link.link import KernelLink
from mapi_proc.kernel_link.positions import Positions
from mapi_proc.network import CurrentNetwork
from mapi_proc.receive.catchup import CatchUp
from mapi_proc.receive.partitions import Partitions
from mapi_proc.status import StatusNotifier
from mapi_proc.streams import AppStream
from mapi_proc.subscriptions import Change, SubscriptionTable
from mapi_proc.subscriptions.filter_keeper import FilterKeeper
from mapi_proc.write_batch import Turn

_WAIT_S: Final = 2.0


@dataclass(kw_only=True, eq=False)
class FollowedShards:
    """The shards that apps need: asks the kernel to follow them and notifies the parts that work per
    shard.
    """

    link: KernelLink
    table: SubscriptionTable[AppStream]
    network: CurrentNetwork
    positions: Positions
    turn: Turn
    catchup: CatchUp
    partitions: Partitions
    status: StatusNotifier
    filters: FilterKeeper | None
    """On an edge node only."""

    def follow(self, shards: Collection[int]) -> None:
        """Follow these shards: the first call resumes at the last run's position."""
        positions = self.positions.take_loaded(self.network.cluster)
        if self.filters is None:
            for shard in positions.keys() & set(shards):
                self.partitions.restarted(shard, positions[shard].good_ns)
        self.link.want(shards, positions)
        self.topics_changed()
        self.status.refresh()

    def leave(self, shards: Iterable[int]) -> None:
        """Stop following these shards."""
        gone = list(shards)
        self.link.unwant(gone)
        self.topics_changed()
        self.catchup.forget(gone)
        self.partitions.forget(gone)
        if gone:
            self.status.refresh()

    def topics_changed(self) -> None:
        """Handle a change of topics on the same shards."""
        if self.filters is not None:
            self.filters.topics_changed()

    def moved(self, shard: int) -> None:
        """Store the shard's position, if any durable stream depends on it."""
        if self.table.durable_on(shard):
            self.turn.moved(shard)

    def close(self) -> None:
        """Store all positions."""
        for shard in self.table.shards:
            self.moved(shard)

    # -- waiting -----------------------------------------------------------------------------------------

    async def wait_heard(self, change: Change) -> None:
        """Wait until what is published now arrives, if the kernel and its peers can manage that without
        delay."""
        if not self.link.up:
            return
        if change.shards_gained:
            await self.link.wait_leased(change.shards_gained, _WAIT_S)
        if self.filters is not None:
            topics: dict[int, list[str]] = {}
            for topic in change.changed:
                route = self.table.routes.get(topic)
                if route is not None:
                    topics.setdefault(route.shard, []).append(topic)
            await self.filters.wait_held(topics, _WAIT_S)

    async def wait_echo(self, shard: int, topic: str) -> None:
        """Wait until a message sent now would come back; otherwise our own apps would miss it."""
        if self.filters is not None and topic in self.table.routes:
            await self.link.wait_leased((shard,), _WAIT_S)
            await self.filters.wait_held({shard: (topic,)}, _WAIT_S)
