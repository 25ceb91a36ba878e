"""The connected store peers, queried through the kernel and paged to the end (13/WAKU2-STORE)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from ipc_schema.errors import IpcError
from ipc_schema.frames import Reply
from ipc_schema.kernel.discovery import PEERS_KNOWN, KnownPeersReply, KnownRecord
from ipc_schema.kernel.store import (
    STORE_QUERY,
    StoredMessage,
    StoreQueryReply,
    StoreQueryRequest,
    stored_messages,
)
from ipc_schema.topics import shard_topic
from mapi_proc.kernel_link.link import KernelLink
from mapi_proc.peers import STORE, ServicePeers

log = logging.getLogger(__name__)

MAX_STORES: Final = 8
"""Stores queried concurrently."""
_TIMEOUT: Final = 30.0
_KNOWN: Final = 100
"""How many of the kernel's known peers are looked at: it lists the most valuable first."""
_KNOWN_TIMEOUT: Final = 5.0
_REMEMBERED_S: Final = 3600.0
_HASHES_A_REQUEST: Final = 2000
_MOST_HASHES: Final = 200_000
"""Most entries of one query over all pages: gives up on a store whose pages never end."""


class StoreHistory:
    """The connected stores, and those that are away."""

    def __init__(self, link: KernelLink, peers: ServicePeers, cluster: Callable[[], int]) -> None:
        self._link = link
        self._peers = peers
        self._cluster = cluster

    def stores(self, shard: int) -> list[StorePeer]:
        """Return the stores to query about a shard now: connected and not backing off, best first."""
        topic = shard_topic(self._cluster(), shard)
        return [
            StorePeer(self._link, self._peers, peer, topic)
            for peer in self._peers.choose(STORE, shard, MAX_STORES)
        ]

    async def away(self, shard: int, now_s: float) -> bool:
        """Return whether a store of the shard is away (see `stores_away`)."""
        return any(not peer.shards or shard in peer.shards for peer in await self._away(now_s))

    async def stores_away(self, now_s: float) -> list[str]:
        """Return the stores that the node was connected to within the last hour and is not connected to now.

        `now_s` is the wall clock's time. The kernel is asked: it remembers across our restarts.
        """
        return [peer.peer_id for peer in await self._away(now_s)]

    async def _away(self, now_s: float) -> list[KnownRecord]:
        try:
            reply = await self._link.request(PEERS_KNOWN, {"limit": _KNOWN}, timeout=_KNOWN_TIMEOUT)
            known = KnownPeersReply.from_body(reply.body).peers
        except IpcError as error:
            log.debug("stores that are away: %s", error)
            return []
        # A success in the future is one from before the clock was set back.
        return [
            peer
            for peer in known
            if not peer.connected
            and not set(STORE).isdisjoint(peer.protocols)
            and now_s - peer.last_success_ms / 1000 < _REMEMBERED_S
        ]


class StorePeer:
    """One store peer, asked about one shard. A result of None means no complete answer.

    `name` identifies it, even after a reconnect.
    """

    def __init__(self, link: KernelLink, peers: ServicePeers, name: str, topic: str) -> None:
        self.name = name
        self._link = link
        self._peers = peers
        self._topic = topic

    @property
    def connected(self) -> float:
        """Return for how many seconds it has been connected without a break."""
        return self._peers.connected(self.name)

    async def _ask(self, body: Mapping[str, object]) -> tuple[StoreQueryReply, Reply] | None:
        try:
            reply = await self._link.request(STORE_QUERY, body, timeout=_TIMEOUT)
            return StoreQueryReply.from_body(reply.body), reply
        except IpcError:
            self._peers.failed(STORE, self.name)
            return None

    async def hashes(self, topics: Sequence[str], start_ns: int, end_ns: int) -> list[bytes] | None:
        """Return the hashes of all messages of these content topics in that time span."""
        request = StoreQueryRequest(
            pubsub_topic=self._topic,
            content_topics=tuple(topics),
            time_start=start_ns,
            time_end=end_ns,
            limit=100,
            max_messages=_HASHES_A_REQUEST,
            peer=self.name,
        )
        found: list[bytes] = []
        cursor: bytes | None = None
        body = request.to_body()
        while True:
            if cursor is not None:
                body["cursor"] = cursor
            answer = await self._ask(body)
            if answer is None:
                return None
            page, _ = answer
            found += page.hashes
            if page.cursor is None:
                self._peers.succeeded(STORE, self.name)
                return found
            if page.cursor == cursor or not page.hashes or len(found) > _MOST_HASHES:
                self._peers.failed(STORE, self.name)
                return None
            cursor = page.cursor

    async def count(self, start_ns: int, end_ns: int, most: int) -> int | None:
        """Count the shard's messages in that time span, whatever their topic, at most `most` (a page holds
        100)."""
        request = StoreQueryRequest(
            pubsub_topic=self._topic, time_start=start_ns, time_end=end_ns, limit=most, peer=self.name
        )
        answer = await self._ask(request.to_body())
        return None if answer is None else len(answer[0].hashes)

    async def messages(self, hashes: Sequence[bytes]) -> list[StoredMessage] | None:
        """Return those of these messages (at most 100) that it has."""
        found: dict[bytes, StoredMessage] = {}
        while True:
            missing = tuple(digest for digest in hashes if digest not in found)
            request = StoreQueryRequest(
                hashes=missing, limit=100, include_data=True, max_messages=len(missing), peer=self.name
            )
            answer = await self._ask(request.to_body())
            if answer is None:
                return list(found.values()) or None
            page, reply = answer
            try:
                messages = stored_messages(page, reply.blobs)
            except IpcError:
                self._peers.failed(STORE, self.name)
                return list(found.values()) or None
            new = {one.message_hash: one for one in messages if one.pubsub_topic == self._topic}
            new = {digest: new[digest] for digest in missing if digest in new}
            found |= new
            if page.cursor is None or not new or len(new) == len(missing):
                self._peers.succeeded(STORE, self.name)
                return list(found.values())
