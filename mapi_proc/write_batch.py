"""What one turn of the event loop changes, as one transaction: new events, positions, hashes, fates of sends.

Whoever handles an input puts its changes into the turn's batch. The batch is submitted at the end of the
turn, and what the streams hold back for it is sent when it is on disk. While the disk is behind, the batch
stays open, the kernel's events wait in its replay ring, and nothing is dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from ipc_schema.kernel.events import stream_name
from mapi_proc.database import Batch, Database, DatabaseClosedError, DatabaseError, KernelPosition
from mapi_proc.kernel_link.tracker import StreamPlace
from mapi_proc.receive.delivered_bounds import GivenCount

__all__ = ["Pausable", "Turn"]


class Pausable(Protocol):
    """A source of input that can wait: the kernel's event socket."""

    def pause(self) -> None: ...
    def resume(self) -> None: ...


class Turn:
    """See the module's text. `on_failed` hears of a transaction that could not be stored: a fault, or the
    end.
    """

    def __init__(
        self,
        database: Database,
        cluster: Callable[[], int],
        position_of: Callable[[int], StreamPlace | None],
        on_failed: Callable[[Exception], None],
        now_ns: Callable[[], int],
        given_count: GivenCount | None = None,
    ) -> None:
        """`position_of(shard)`: where the shard's stream stands, read when the batch is submitted.
        `given_count` counts what apps are given."""
        self._database = database
        self._cluster = cluster
        self._position_of = position_of
        self._on_failed = on_failed
        self._now_ns = now_ns
        self._loop = asyncio.get_running_loop()
        self._batch: Batch | None = None
        self._hashes: dict[int, list[bytes]] = {}
        self._shards: set[int] = set()
        self._given: dict[int, list[bytes]] = {}
        self._given_count = given_count or GivenCount()
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
                self._loop.call_soon(self.flush)
        return batch

    def received(self, shard: int, message_hash: bytes) -> None:
        """A message of this shard went into a durable stream: keep its hash and the shard's position."""
        hashes = self._hashes.get(shard)
        if hashes is None:
            hashes = self._hashes[shard] = []
            self._shards.add(shard)
        hashes.append(message_hash)

    def given(self, app_id: int, message_hash: bytes) -> None:
        """A named app was given a message: its history must not bring it again."""
        hashes = self._given.get(app_id)
        if hashes is None:
            hashes = self._given[app_id] = []
        hashes.append(message_hash)
        if self._watched and app_id in self._watched:
            self._watched[app_id].add(message_hash)

    @contextmanager
    def watch(self, app_id: int) -> Iterator[set[bytes]]:
        """What the named app is given from now on, as long as the context is open (one for an app)."""
        given: set[bytes] = set()
        self._watched[app_id] = given
        try:
            yield given
        finally:
            del self._watched[app_id]

    async def room(self) -> None:
        """Wait until the disk keeps up: for input that can wait."""
        while self._database.congested:
            room = asyncio.Event()
            self._database.when_room(room.set)
            await room.wait()

    def moved(self, shard: int) -> None:
        """Keep the shard's position with this turn."""
        self._shards.add(shard)
        _ = self.batch

    async def stored(self) -> None:
        """Wait until all that was put into this turn's batch until now is on disk. Raises DatabaseError."""
        _ = self.batch  # it will be flushed, empty or not
        if self._stored is None:
            self._stored = self._loop.create_future()
        await asyncio.shield(self._stored)

    def flush(self) -> None:
        """Submit what the turn brought. At the latest at the end of the turn; earlier for order's sake."""
        batch = self._batch
        if batch is None or self._waiting:
            return
        if self._behind():
            self._wait()
            return
        now = self._now_ns()
        for shard, hashes in self._hashes.items():
            batch.remember(shard, now, b"".join(hashes))
        self._hashes.clear()
        for app_id, hashes in self._given.items():
            batch.delivered(app_id, now, b"".join(hashes))
            self._given_count.add(now, len(hashes))
        self._given.clear()
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
        stored.exception()  # whoever waited may have gone away
