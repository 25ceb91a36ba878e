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
_HASHES_A_QUERY: Final = 100
_MOST_HASHES: Final = 200_000
"""Of one query, over all pages: a store that never ends its pages is given up."""


class StoreHistory:
    """Implements `History`. A store that fails is followed by the next one; each answer is of one
    store alone.
    """

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
        """Those of these messages that stores have, oldest first of each portion; None: none answered."""
        found: list[StoredMessage] = []
        for start in range(0, len(hashes), _HASHES_A_QUERY):
            portion = await self._bodies(shard, hashes[start : start + _HASHES_A_QUERY])
            if portion is None:
                return None
            found += portion
        return found

    async def _bodies(self, shard: int, hashes: Sequence[bytes]) -> list[StoredMessage] | None:
        wanted = set(hashes)
        topic = shard_topic(self._cluster(), shard)
        for peer in self._peers.choose(STORE, shard, _STORES):
            found: dict[bytes, StoredMessage] = {}
            while len(found) < len(wanted):
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
                    break
                new = [m for m in messages if m.message_hash in wanted and m.message_hash not in found]
                found |= {message.message_hash: message for message in new if message.pubsub_topic == topic}
                if page.cursor is None or not new:
                    self._peers.succeeded(STORE, peer)
                    return list(found.values())
            else:
                self._peers.succeeded(STORE, peer)
                return list(found.values())
        return None
