"""The MAPI process's database: one SQLite file, one writer thread, one transaction per input.

Once `on_committed` has been called, the batch survives a crash of the process, and a crash of the host too if
the batch was `durable`. Commits are grouped and keep the order of `Database.submit`.

    database = await Database.open(data_dir / "mapi.sqlite3")
    snapshot = await database.load()
    batch = database.batch()
    …fill it…
    database.submit(batch, on_committed=answer)
"""

from mapi_proc.database.batch import Batch
from mapi_proc.database.channels import ChannelContents, ChannelRecord, ChannelRows
from mapi_proc.database.errors import (
    BatchRefusedError,
    DatabaseBusyError,
    DatabaseClosedError,
    DatabaseError,
)
from mapi_proc.database.records import (
    AppRecord,
    JournalEntry,
    JournalExtent,
    KernelPosition,
    OutboxEntry,
    OutboxState,
    RememberedHashes,
    Snapshot,
    WantedHistory,
)
from mapi_proc.database.store import Database
from mapi_proc.database.writer import DatabaseState

__all__ = [
    "AppRecord",
    "Batch",
    "BatchRefusedError",
    "ChannelContents",
    "ChannelRecord",
    "ChannelRows",
    "Database",
    "DatabaseBusyError",
    "DatabaseClosedError",
    "DatabaseError",
    "DatabaseState",
    "JournalEntry",
    "JournalExtent",
    "KernelPosition",
    "OutboxEntry",
    "OutboxState",
    "RememberedHashes",
    "Snapshot",
    "WantedHistory",
]
