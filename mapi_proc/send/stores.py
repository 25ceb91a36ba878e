"""Presence queries through the kernel: which messages does a store have (13/WAKU2-STORE)?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ipc_schema.errors import IpcError
from ipc_schema.kernel.store import STORE_QUERY, StoreQueryReply, StoreQueryRequest
from mapi_proc.kernel_link.link import KernelLink
from mapi_proc.peers import STORE, ServicePeers
from mapi_proc.send.confirm import NoStore

_TIMEOUT: Final = 10.0
_PEERS_A_ROUND: Final = 3


class StorePresence:
    """Implements `Presence`: queries the store peers in turn, the next one when one fails.

    Never our own archive.
    """

    def __init__(self, link: KernelLink, peers: ServicePeers) -> None:
        self._link = link
        self._peers = peers

    async def __call__(self, shard: int, hashes: Sequence[bytes], /) -> set[bytes] | NoStore:
        failed = NoStore(f"no store for shard {shard} is connected")
        for peer in self._peers.choose(STORE, shard, _PEERS_A_ROUND, rotate=True):
            request = StoreQueryRequest(
                hashes=tuple(hashes), limit=100, max_messages=len(hashes), include_data=False, peer=peer
            )
            try:
                reply = await self._link.request(STORE_QUERY, request.to_body(), timeout=_TIMEOUT)
                found = set(StoreQueryReply.from_body(reply.body).hashes)
            except IpcError as error:
                failed = NoStore(f"store {peer}: {error.message}")
                self._peers.failed(STORE, peer)
                continue
            self._peers.succeeded(STORE, peer)
            return found & set(hashes)
        return failed
