"""A set of message ids that takes the same memory however many there are."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Final

_CACHE_KIB: Final = 8 * 1024


class IdSet:
    """Ids in a private temporary database. SQLite keeps it in its cache and, once that is full, in an
    unlinked file, which disappears with the process. Close it after use."""

    def __init__(self, ids: Iterable[str] = ()) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("CREATE TABLE ids (id TEXT PRIMARY KEY) WITHOUT ROWID")
        self._count = 0
        self.add(ids)

    def __len__(self) -> int:
        return self._count

    def __contains__(self, message_id: str) -> bool:
        if not self._count:
            return False
        found = self._database.execute("SELECT 1 FROM ids WHERE id = ?", (message_id,))
        return found.fetchone() is not None

    def add(self, ids: Iterable[str]) -> None:
        """Add ids. Raises `sqlite3.Error` if the disk is full."""
        rows = ((message_id,) for message_id in ids)
        self._count += self._database.executemany("INSERT OR IGNORE INTO ids VALUES (?)", rows).rowcount

    def close(self) -> None:
        """Free memory and file."""
        self._database.close()
