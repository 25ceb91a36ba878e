"""History through the kernel's store client: paged to the end, several stores tried (13/WAKU2-STORE)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from ipc_schema.errors import IpcError
from ipc_schema.kernel.store import (
    MAX_STORE_MESSAGES,
    STORE_QUERY,
    StoredMessage,
    StoreQueryReply,
    StoreQueryRequest,
    stored_messages,
)
from ipc_schema.topics import shard_topic
from mapi_proc.kernel_link.link import KernelLink
from mapi_proc.peers import STORE, ServicePeers

__all__ = ["StoreHistory"]

_TIMEOUT: Final = 30.0
_STORES: Final = 3
_MOST_HASHES: Final = 200_000
"""Of one query, over all pages: a store that never ends its pages is given up."""


class StoreHistory:
    """Implements `History`. A store that fails is followed by the next one."""

    def __init__(self, link: KernelLink, peers: ServicePeers, cluster: Callable[[], int]) -> None:
        self._link = link
        self._peers = peers
        self._cluster = cluster

    async def hashes(
        self, shard: int, topics: Sequence[str], start_ns: int, end_ns: int
    ) -> list[bytes] | None:
        """The hashes of all messages of these content topics in that time; None: no store answered
        to the end.
        """
        request = StoreQueryRequest(
            pubsub_topic=shard_topic(self._cluster(), shard),
            content_topics=tuple(topics),
            time_start=start_ns,
            time_end=end_ns,
            limit=100,
            max_messages=MAX_STORE_MESSAGES,
        )
        for peer in self._peers.choose(STORE, shard, _STORES):
            found = await self._to_the_end(request, peer)
            if found is not None:
                return found
        return None

    async def _to_the_end(self, request: StoreQueryRequest, peer: str) -> list[bytes] | None:
        found: list[bytes] = []
        cursor: bytes | None = None
        body = request.to_body() | {"peer": peer}
        while True:
            if cursor is not None:
                body["cursor"] = cursor
            try:
                reply = await self._link.request(STORE_QUERY, body, timeout=_TIMEOUT)
                page = StoreQueryReply.from_body(reply.body)
            except IpcError:
                self._peers.failed(STORE, peer)
                return None
            found += page.hashes
            if page.cursor is None:
                self._peers.succeeded(STORE, peer)
                return found
            if page.cursor == cursor or not page.hashes or len(found) > _MOST_HASHES:
                self._peers.failed(STORE, peer)
                return None
            cursor = page.cursor

    async def messages(self, shard: int, hashes: Sequence[bytes]) -> list[StoredMessage] | None:
        """Those of these messages that stores have, what one lacks of the next one; None: none answered."""
        found: dict[bytes, StoredMessage] = {}
        answered = False
        for peer in self._peers.choose(STORE, shard, _STORES):
            answered |= await self._bodies(shard_topic(self._cluster(), shard), hashes, peer, found)
            if len(found) == len(hashes):
                break
        return list(found.values()) if answered else None

    async def _bodies(
        self, topic: str, hashes: Sequence[bytes], peer: str, found: dict[bytes, StoredMessage]
    ) -> bool:
        """Add to `found` what one store has of the rest. False: it did not answer."""
        while True:
            missing = tuple(digest for digest in hashes if digest not in found)
            request = StoreQueryRequest(
                hashes=missing, limit=100, include_data=True, max_messages=len(missing), peer=peer
            )
            try:
                reply = await self._link.request(STORE_QUERY, request.to_body(), timeout=_TIMEOUT)
                page = StoreQueryReply.from_body(reply.body)
                messages = stored_messages(page, reply.blobs)
            except IpcError:
                self._peers.failed(STORE, peer)
                return False
            new = {m.message_hash: m for m in messages if m.pubsub_topic == topic}
            new = {digest: new[digest] for digest in missing if digest in new}
            found |= new
            if page.cursor is None or not new or len(new) == len(missing):
                self._peers.succeeded(STORE, peer)
                return True
