"""What a named app was given, as the disk knows it: history must not bring it again."""

from __future__ import annotations

import logging
import sqlite3
from typing import Final

from mapi_proc.database import Database, DatabaseError
from mapi_proc.write_batch import Turn

__all__ = ["GivenMessages"]

log = logging.getLogger(__name__)

_SKEW_NS: Final = 3600 * 1_000_000_000
"""How much earlier than its timestamp a message may have been given: clocks differ, and are set."""


class GivenMessages:
    """A question to one database."""

    def __init__(self, database: Database, turn: Turn) -> None:
        self._database = database
        self._turn = turn

    async def __call__(self, app_id: int, since: int) -> set[bytes] | None:
        """The hashes of what the app was given of the time since then (ns), as of now: what is on its way to
        the disk is waited for. None: the disk cannot say now.
        """
        try:
            await self._turn.stored()
            return await self._database.find_delivered(app_id, since - _SKEW_NS)
        except (DatabaseError, sqlite3.Error) as error:
            log.warning("what app %d was given cannot be read now: %s", app_id, error)
            return None
