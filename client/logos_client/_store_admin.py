"""The node's own archive: its state, store sync now, verification, import."""

from __future__ import annotations

from collections.abc import Iterable

from ipc_schema.kernel.store import store_blobs
from ipc_schema.kernel.store_admin import (
    STORE_IMPORT,
    STORE_STATUS,
    STORE_SYNC,
    STORE_VERIFY,
    StoreImportReply,
    StoreSessionRecord,
    StoreStatusReply,
    StoreSyncRequest,
    StoreVerifyReply,
    StoreVerifyRequest,
)
from ipc_schema.message import WakuMessage
from logos_client._calls import Calls
from logos_client._services import PEER_TIMEOUT


class StoreAdminMethods(Calls):
    """The part of a `KernelClient` about the node's own archive. `NotReadyError`: store is off."""

    async def store_status(self, *, timeout: float = PEER_TIMEOUT) -> StoreStatusReply:
        """Return the state of the archive: size, range of each pubsub topic, store sync and store resume.

            state = await kernel.store_status()
            print(state.messages, [(topic.pubsub_topic, topic.newest) for topic in state.topics])

        Counting a large archive takes seconds. Raises `NotReadyError`.
        """
        return await self._call(StoreStatusReply, STORE_STATUS, timeout=timeout)

    async def store_sync(self, peer: str | None = None, *, timeout: float = 300.0) -> StoreSessionRecord:
        """Compare the archive with that of another store now, and exchange what is missing.

            session = await kernel.store_sync()
            print(session.peer, "gave", session.received, "and got", session.sent)

        `peer`: a peer id or multiaddr; None: the connected one whose turn it is. Raises `NotReadyError`
        (`store-sync` is off), `NoPeersError` (no peer speaks it, or the session failed; `detail`: attempts),
        `DeadlineError`.
        """
        request = StoreSyncRequest(peer=peer)
        return await self._call(StoreSessionRecord, STORE_SYNC, request.to_body(), timeout=timeout)

    async def store_verify(
        self,
        pubsub_topic: str,
        *,
        cursor: bytes | None = None,
        limit: int = 500,
        timeout: float = PEER_TIMEOUT,
    ) -> StoreVerifyReply:
        """Recompute the hashes of the next `limit` (1000) messages of a pubsub topic.

            checked = await kernel.store_verify("/waku/2/rs/1/0")
            while checked.cursor is not None and not checked.bad:
                checked = await kernel.store_verify("/waku/2/rs/1/0", cursor=checked.cursor)

        Raises `NotReadyError`, `BadRequestError` (also: the cursor's message is gone).
        """
        request = StoreVerifyRequest(pubsub_topic=pubsub_topic, cursor=cursor, limit=limit)
        return await self._call(StoreVerifyReply, STORE_VERIFY, request.to_body(), timeout=timeout)

    async def store_import(
        self, messages: Iterable[tuple[str, WakuMessage]], *, timeout: float = PEER_TIMEOUT
    ) -> StoreImportReply:
        """Archive up to 32 messages, each with its pubsub topic, whatever their age.

            done = await kernel.store_import([("/waku/2/rs/1/0", message)])
            print(done.stored, "new,", done.known, "known,", [one.reason for one in done.refused])

        Returns when they are on disk. Raises `NotReadyError`, `BadRequestError`.
        """
        return await self._call(StoreImportReply, STORE_IMPORT, {}, store_blobs(messages), timeout=timeout)
