"""What a named app was already delivered, as recorded on disk: history must not deliver it again."""

from __future__ import annotations

import logging
import sqlite3
from typing import Final

from mapi_proc.database import Database, DatabaseError
from mapi_proc.database.reader import find_delivered
from mapi_proc.write_batch import Turn

log = logging.getLogger(__name__)

_SKEW_NS: Final = 3600 * 1_000_000_000
"""How much earlier than its timestamp a message may have been delivered: clocks differ, and are set."""


async def delivered_since(database: Database, turn: Turn, app_id: int, since: int) -> set[bytes] | None:
    """Return the hashes delivered to the app since then (ns), uncommitted ones included: pending writes are
    awaited.

    None: the disk cannot answer now.
    """
    try:
        await turn.stored()
        return await database.read(find_delivered, app_id, since - _SKEW_NS)
    except (DatabaseError, sqlite3.Error) as error:
        log.warning("cannot read now what app %d was delivered: %s", app_id, error)
        return None
