"""The database as seen by an app's request: refuse while the disk is behind, map errors to those of the
contract.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ipc_schema.errors import ErrorCode, IpcError
from mapi_proc.database import Batch, Database, DatabaseBusyError, DatabaseClosedError, DatabaseState
from mapi_proc.write_batch import Turn


class Disk:
    """A view of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def check(self) -> None:
        """Raise `busy` while no new input should be taken."""
        database = self._database
        if database.state is DatabaseState.STALLED:
            reason = f"the disk cannot be written: {database.state_reason}"
            raise IpcError(ErrorCode.BUSY, reason, retry_after_ms=1000)
        if database.congested:
            reason = database.state_reason or "the disk is behind"
            raise IpcError(ErrorCode.BUSY, reason, retry_after_ms=200)

    async def commit(self, batch: Batch) -> None:
        """Wait until the batch is on disk. Raises IpcError."""
        with refusals():
            await self._database.commit(batch)

    async def stored(self, turn: Turn) -> None:
        """Wait until the changes of this turn of the loop are on disk. Raises IpcError."""
        with refusals():
            await turn.stored()


@contextmanager
def refusals() -> Iterator[None]:
    """Map the database's errors to those of the contract."""
    try:
        yield
    except DatabaseBusyError as error:
        raise IpcError(ErrorCode.BUSY, "the disk is behind", retry_after_ms=200) from error
    except DatabaseClosedError as error:
        raise IpcError(ErrorCode.NOT_READY, "shutting down") from error
