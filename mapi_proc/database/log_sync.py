"""Syncs of the write-ahead log, on a thread of their own: the writer fills the next transaction meanwhile.

SQLite writes a commit's frames to the log without a sync (`synchronous = NORMAL`). What must survive a host
crash is reported only after a sync that began after its commit, and everything is reported in order. Where
the log restarts meanwhile, a checkpoint has synced the log and then the main file.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Final, Generic, TypeVar

_T = TypeVar("_T")

_CHUNK: Final = 1 << 20


class SyncOrder(Generic[_T]):
    """Decides what may be reported when, from the numbers of commits and syncs. Pure."""

    def __init__(self) -> None:
        self.commits = 0
        self._synced = 0
        self._waiting: deque[tuple[int, _T]] = deque()
        """Each with the commit that a sync must cover; 0: none."""

    @property
    def wanted(self) -> bool:
        """Return whether something waits for a sync."""
        return bool(self._waiting)

    def committed(self, what: _T, durable: bool) -> Sequence[_T]:
        """Count a commit. Return what may be reported now."""
        self.commits += 1
        if not durable and not self._waiting:
            return (what,)
        self._waiting.append((self.commits if durable else 0, what))
        return ()

    def synced(self, commits: int) -> Sequence[_T]:
        """Take the end of a sync that began after so many commits. Return what may be reported now."""
        self._synced = max(self._synced, commits)
        waiting, ready = self._waiting, []
        while waiting and waiting[0][0] <= self._synced:
            ready.append(waiting.popleft()[1])
        return ready

    def abandon(self) -> Sequence[_T]:
        """Take out all that waits."""
        ready = [what for _, what in self._waiting]
        self._waiting.clear()
        return ready


class LogSync(Generic[_T]):
    """The thread that syncs. All methods are for the writer's thread.

    `report` is called in order, from either thread; `on_failure` from the syncing one, after which the writer
    must call `rewrite_log` until it succeeds, then `secured`: until then there are no more syncs.
    """

    def __init__(self, log: int, report: Callable[[_T], None], on_failure: Callable[[], None]) -> None:
        """`log`: a descriptor of the -wal file. SQLite's locks are not on that file, so closing it is
        harmless."""
        self._log = log
        self._report = report
        self._on_failure = on_failure
        self._order: SyncOrder[_T] = SyncOrder()
        self._lock = threading.Lock()
        self._wake: SimpleQueue[bool] = SimpleQueue()
        self._idle = True
        self.failure: Exception | None = None
        """Why the log may not be on disk."""
        self._worker = threading.Thread(target=self._run, name="mapi-database-sync", daemon=True)

    def start(self) -> None:
        self._worker.start()

    def committed(self, what: _T, durable: bool) -> None:
        """Report what is committed, when its turn comes."""
        with self._lock:
            for ready in self._order.committed(what, durable):
                self._report(ready)
            if self._idle and self._order.wanted:
                self._idle = False
                self._wake.put(True)

    def doubt(self, error: Exception) -> None:
        """Take a failed sync of the log by SQLite itself."""
        self.failure = error

    def rewrite_log(self) -> None:
        """After a failed sync: write the log over itself and sync it. `secured` follows.

        Linux marks pages clean whose writing failed, so another sync alone would succeed without them, and
        a checkpoint would move them to the main file ahead of their log. The caller keeps other writers
        out. Raises OSError.
        """
        size = os.fstat(self._log).st_size
        for start in range(0, size, _CHUNK):
            data = os.pread(self._log, min(_CHUNK, size - start), start)
            while data:
                written = os.pwrite(self._log, data, start)
                data, start = data[written:], start + written
        os.fdatasync(self._log)

    def secured(self) -> None:
        """Report all that is committed: the log is on disk."""
        with self._lock:
            self.failure = None
            for ready in self._order.synced(self._order.commits):
                self._report(ready)

    def stop(self) -> None:
        """End the thread after what waits for a sync, unless syncs fail (blocks)."""
        self._wake.put(False)
        self._worker.join()

    def abandon(self) -> Sequence[_T]:
        """After `stop`: return what could not be synced."""
        return self._order.abandon()

    # --- the thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        while self._wake.get():
            while commits := self._begin():
                try:
                    os.fdatasync(self._log)
                except OSError as error:
                    self.failure = error
                    self._on_failure()
                else:
                    with self._lock:
                        for ready in self._order.synced(commits):
                            self._report(ready)

    def _begin(self) -> int:
        """Return the number of the last commit before the sync that begins now; 0 if none is wanted."""
        with self._lock:
            if self._order.wanted and self.failure is None:
                return self._order.commits
            self._idle = True
            return 0
