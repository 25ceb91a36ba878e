"""Fetch a channel's missing messages from stores, by the hashes in other participants' hints."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from mapi_proc.channels.events import RetrieveMessages
from mapi_proc.channels.host import ChannelHost
from mapi_proc.receive.fetching import HASHES_A_QUERY
from mapi_proc.receive.stores import StorePeer

_HASH: Final = 32
_AT_ONCE: Final = 4
_WAITING: Final = 1_000
"""Requests that wait for a store; further ones are left out, and the channel asks again later."""


class Retrieval:
    """`stores(shard)`: the connected ones, the best first. `shard_of`: of a content topic, None: unknown."""

    def __init__(
        self,
        stores: Callable[[int], Sequence[StorePeer]],
        shard_of: Callable[[str], int | None],
        spawn: Callable[[asyncio.Task[None]], object],
    ) -> None:
        self._stores = stores
        self._shard_of = shard_of
        self._spawn = spawn
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._under_way: set[tuple[int, bytes]] = set()
        self.asked = 0
        self.found = 0

    def __call__(self, host: ChannelHost, wanted: RetrieveMessages) -> None:
        """Query in the background."""
        number = host.record.channel
        hashes = [
            entry.hint
            for entry in wanted.entries
            if len(entry.hint) == _HASH and (number, entry.hint) not in self._under_way
        ]
        for start in range(0, len(hashes), HASHES_A_QUERY):
            if len(self._under_way) >= _WAITING:
                return
            portion = hashes[start : start + HASHES_A_QUERY]
            self._under_way.update((number, digest) for digest in portion)
            self._spawn(asyncio.create_task(self._fetch(host, portion), name="channel-retrieval"))

    async def _fetch(self, host: ChannelHost, hashes: list[bytes]) -> None:
        try:
            async with self._slots:
                await self._ask(host, hashes)
        finally:
            self._under_way.difference_update((host.record.channel, digest) for digest in hashes)

    async def _ask(self, host: ChannelHost, hashes: list[bytes]) -> None:
        topic = host.record.content_topic
        shard = self._shard_of(topic)
        if shard is None:
            return
        missing = list(hashes)
        for store in self._stores(shard):
            if not missing or host.closed:
                return
            self.asked += 1
            for stored in await store.messages(missing) or ():
                if stored.message.content_topic == topic:
                    self.found += 1
                    missing.remove(stored.message_hash)
                    host.receive(stored.message.payload, stored.message_hash)
