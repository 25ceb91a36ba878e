"""The changes of one event-loop turn as one transaction: new events, positions, hashes, states of sends.

Every input's handler adds its changes to the turn's batch. The batch is submitted at the end of the turn,
and the streams send their events once it is on disk. While the disk is behind, the batch stays open, the
kernel's events wait in its replay ring, and nothing is dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from ipc_schema.kernel.events import stream_name
from mapi_proc.database import Batch, Database, DatabaseClosedError, DatabaseError, KernelPosition
from mapi_proc.kernel_link.tracker import StreamPlace
from mapi_proc.receive.delivered_bounds import DeliveredCount


class Pausable(Protocol):
    """A source of input that can wait: the kernel's event socket."""

    def pause(self) -> None: ...
    def resume(self) -> None: ...


class Turn:
    """The open batch of the current loop turn.

    `on_failed` is called if a transaction could not be stored: on a fault, or at shutdown.
    """

    def __init__(
        self,
        database: Database,
        cluster: Callable[[], int],
        position_of: Callable[[int], StreamPlace | None],
        on_failed: Callable[[Exception], None],
        now_ns: Callable[[], int],
        delivered_count: DeliveredCount | None = None,
    ) -> None:
        """`position_of(shard)` returns the shard's stream position, read when the batch is submitted.
        `delivered_count` counts delivered hashes."""
        self._database = database
        self._cluster = cluster
        self._position_of = position_of
        self._on_failed = on_failed
        self._now_ns = now_ns
        self._loop = asyncio.get_running_loop()
        self._batch: Batch | None = None
        self._hashes: dict[int, list[bytes]] = {}
        self._shards: set[int] = set()
        self._delivered: dict[int, list[bytes]] = {}
        self._delivered_count = delivered_count or DeliveredCount()
        self._watched: dict[int, set[bytes]] = {}
        self._stored: asyncio.Future[None] | None = None
        self._waiting = False
        self.source: Pausable | None = None
        self.stalls = 0

    @property
    def batch(self) -> Batch:
        """The batch of this turn. Ephemeral streams leave it empty; then nothing is written."""
        batch = self._batch
        if batch is None:
            batch = self._batch = self._database.batch()
            if not self._waiting:
                # Runs after all input of this loop iteration: one transaction for a whole burst.
                self._loop.call_soon(self.flush)
        return batch

    def received(self, shard: int, message_hash: bytes) -> None:
        """Record a message of this shard in a durable stream: store its hash and the shard's position."""
        hashes = self._hashes.get(shard)
        if hashes is None:
            hashes = self._hashes[shard] = []
            self._shards.add(shard)
        hashes.append(message_hash)

    def delivered(self, app_id: int, message_hash: bytes) -> None:
        """Record a message delivered to a named app: history must not deliver it again."""
        hashes = self._delivered.get(app_id)
        if hashes is None:
            hashes = self._delivered[app_id] = []
        hashes.append(message_hash)
        if self._watched and app_id in self._watched:
            self._watched[app_id].add(message_hash)

    @contextmanager
    def watch(self, app_id: int) -> Iterator[set[bytes]]:
        """Collect what the named app is delivered while the context is open (one per app)."""
        delivered: set[bytes] = set()
        self._watched[app_id] = delivered
        try:
            yield delivered
        finally:
            del self._watched[app_id]

    async def room(self) -> None:
        """Wait until the disk keeps up; for input that can wait."""
        while self._database.congested:
            room = asyncio.Event()
            self._database.when_room(room.set)
            await room.wait()

    def moved(self, shard: int) -> None:
        """Store the shard's position with this turn."""
        self._shards.add(shard)
        _ = self.batch

    async def stored(self) -> None:
        """Wait until everything put into this turn's batch so far is on disk. Raises DatabaseError."""
        _ = self.batch  # force a flush, even of an empty batch
        if self._stored is None:
            self._stored = self._loop.create_future()
        await asyncio.shield(self._stored)

    def flush(self) -> None:
        """Submit the turn's changes: at the end of the turn at the latest, earlier to keep an order."""
        batch = self._batch
        if batch is None or self._waiting:
            return
        if self._behind():
            self._wait()
            return
        # Hashes, deliveries and stream positions go into the transaction of the events they belong to: after
        # a kill all of them are there or none, so a message is neither lost nor delivered twice.
        now = self._now_ns()
        for shard, hashes in self._hashes.items():
            batch.remember(shard, now, b"".join(hashes))
        self._hashes.clear()
        for app_id, hashes in self._delivered.items():
            batch.delivered(app_id, now, b"".join(hashes))
            self._delivered_count.add(now, len(hashes))
        self._delivered.clear()
        for shard in self._shards:
            position = self._position_of(shard)
            if position is not None and position.epoch:
                name = stream_name(self._cluster(), shard)
                batch.position(KernelPosition(name, *position))
        self._shards.clear()
        self._batch = None
        stored, self._stored = self._stored, None
        if batch.empty and stored is None:
            return
        try:
            self._submit(batch, stored)
        except DatabaseClosedError as error:
            if stored is None:
                raise
            _fail(stored, error)
        if self._behind():
            self._wait()

    def _submit(self, batch: Batch, stored: asyncio.Future[None] | None) -> None:
        if stored is None:
            self._database.submit(batch, on_failed=self._failed)
            return

        def failed(error: Exception) -> None:
            _fail(stored, error)
            self._failed(error)

        self._database.submit(batch, lambda: _done(stored), failed)

    def _behind(self) -> bool:
        return self._database.congested

    def _wait(self) -> None:
        self._waiting = True
        self.stalls += 1
        if self.source is not None:
            self.source.pause()
        self._database.when_room(self._room)

    def _room(self) -> None:
        self._waiting = False
        if self.source is not None:
            self.source.resume()
        self.flush()

    def _failed(self, error: Exception) -> None:
        if isinstance(error, DatabaseError):
            self._on_failed(error)
        else:
            raise error


def _done(stored: asyncio.Future[None]) -> None:
    if not stored.done():
        stored.set_result(None)


def _fail(stored: asyncio.Future[None], error: Exception) -> None:
    if not stored.done():
        stored.set_exception(error)
        stored.exception()  # a waiter may have been cancelled
