"""Leases of one consumer, reference-counted per shard and kept renewed."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from typing import Final

from ipc_schema.errors import IpcError
from ipc_schema.kernel import methods
from ipc_schema.streams import StreamState
from logos_client._connection import RequestConnection

log = logging.getLogger(__name__)

_RETRY: Final = 1.0
_RELEASE_TIMEOUT: Final = 1.0


class LeaseKeeper:
    """Holds leases while they are in use. `renew_every`: seconds, from the kernel's hello."""

    def __init__(self, connection: RequestConnection) -> None:
        self.renew_every = methods.LEASE_RENEW_MS / 1000
        self._connection = connection
        self._held: Counter[int] = Counter()
        self._now = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._renew())

    async def hold(self, shards: Sequence[int]) -> Sequence[StreamState]:
        """Lease shards until `release`; reference-counted, so that several users may hold one.

        Raises `IpcError`.
        """
        request = methods.LeaseAcquireRequest(shards=tuple(shards))
        reply = await self._connection.request(methods.LEASE_ACQUIRE, request.to_body())
        self._held.update(shards)
        return methods.LeaseAcquireReply.from_body(reply.body).leases

    async def release(self, shards: Sequence[int]) -> None:
        """Undo `hold`. Raises `IpcError`; the lease is not renewed then and lapses."""
        held = [shard for shard in shards if self._held[shard] > 0]
        self._held.subtract(held)
        unused = [shard for shard in dict.fromkeys(shards) if self._held[shard] <= 0]
        for shard in unused:
            del self._held[shard]
        given_back = [shard for shard in unused if shard in held]
        if given_back and self._connection.ready:
            request = methods.LeaseReleaseRequest(shards=tuple(given_back))
            await self._connection.request(methods.LEASE_RELEASE, request.to_body(), timeout=_RELEASE_TIMEOUT)

    def renew_now(self) -> None:
        """Renew at once: a hello was accepted, so the kernel may be a new instance."""
        self._now.set()

    async def _renew(self) -> None:
        """Renew all leases: on time, after each hello, and soon again after a failure."""
        wait = self.renew_every
        while True:
            try:
                async with asyncio.timeout(wait):
                    await self._now.wait()
            except TimeoutError:
                pass
            self._now.clear()
            wait = self.renew_every
            if not self._held:
                continue
            try:
                await self._connection.wait_ready()
                request = methods.LeaseAcquireRequest(shards=tuple(sorted(self._held)))
                await self._connection.request(methods.LEASE_ACQUIRE, request.to_body())
            except IpcError as error:
                level = logging.DEBUG if error.retriable else logging.WARNING
                log.log(level, "renewing leases: %s", error)
                wait = min(wait, _RETRY)

    async def close(self) -> None:
        """Release everything."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        try:
            await self.release([shard for shard, count in self._held.items() for _ in range(count)])
        except IpcError as error:
            log.debug("releasing leases: %s", error)
