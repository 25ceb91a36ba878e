"""Keep the peer store in its file: load it at start, save it while the node runs and at the end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import trio

from kernel_proc.metrics import Registry
from kernel_proc.peers.clock import PeerClock
from kernel_proc.peers.store import PeerStore
from kernel_proc.peers.store_file import load_peers, save_peers, snapshot
from logos_process.logs import fields

log = logging.getLogger(__name__)

SAVE_FIRST: Final = 2.0
SAVE_PERIOD: Final = 30.0


class StoreKeeper:
    """The file of a peer store; `path` None: the store is not persisted."""

    def __init__(self, store: PeerStore, path: Path | None, clock: PeerClock, registry: Registry) -> None:
        self._store = store
        self._path = path
        self._clock = clock
        self._saved = store.changes
        self._refused = False
        self._unsaved = registry.counter("peers_errors", type="storage_failure")

    def restore(self, usable: Callable[[str], bool]) -> None:
        """Load the peers of the last run, with those addresses that may be dialled: another version wrote the
        file, or a person."""
        if self._path is None:
            return
        peers = load_peers(self._path, self._clock)
        for peer in peers:
            peer.addresses = tuple(filter(usable, peer.addresses))
        self._store.restore(peers, self._clock())
        self._saved = self._store.changes
        if len(self._store):
            log.info("known peers loaded", extra=fields(peers=len(self._store)))

    async def run(self) -> None:
        """Save changes now and then, until cancelled; the write happens in a thread."""
        path, period = self._path, SAVE_FIRST
        while path is not None:
            await trio.sleep(period)
            if self._saved != self._store.changes:
                period = SAVE_PERIOD
                changes, peers = self._store.changes, snapshot(self._store)
                with self._saving(path, changes):
                    await trio.to_thread.run_sync(save_peers, path, peers, self._clock.stamp())

    def save_now(self) -> None:
        """Save changes now, blocking: at the end of the node."""
        path, changes = self._path, self._store.changes
        if path is not None and self._saved != changes:
            with self._saving(path, changes):
                save_peers(path, snapshot(self._store), self._clock.stamp())

    @contextmanager
    def _saving(self, path: Path, changes: int) -> Iterator[None]:
        """Record that `changes` are saved. Count a failure, and log the first of a row."""
        try:
            yield
        except OSError as error:
            self._unsaved.add()
            if not self._refused:
                log.warning("cannot save known peers", extra=fields(file=str(path), reason=str(error)))
            self._refused = True
        else:
            self._saved, self._refused = changes, False
