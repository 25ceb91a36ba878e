"""When there is doubt that the database holds all that an app has seen; what the counts count."""

from __future__ import annotations

from pathlib import Path

import pytest

from mapi_proc.database import AppRecord, Database
from mapi_proc.database.identity import Beside, DatabaseIdentity, counts_of, doubt
from mapi_proc.database.records import OutboxState
from mapi_proc.database.sidecar import Counts, Written, read_written
from tests.support.aio import asyncio_test
from tests.unit.mapi_proc.database.support import app_record, send_entry

KEPT = DatabaseIdentity(generation=3, place=77, boot_id="boot", clean=False, counts=Counts(10, 5))
FILES = Beside(generation=3, place=77, written=Written(Counts(10, 5), 77, None), boot_id="boot")


def test_no_doubt() -> None:
    assert doubt(KEPT, FILES) == ""
    assert doubt(KEPT._replace(clean=True), FILES._replace(boot_id="other")) == ""
    written = Written(Counts(9, 5), 77, None)  # killed between the commit and the note of it
    assert doubt(KEPT, FILES._replace(written=written)) == ""
    assert doubt(KEPT._replace(place=0), FILES) == "", "the last start did not come so far as to give events"


def test_a_database_of_an_earlier_version_has_less_to_compare() -> None:
    kept = KEPT._replace(place=None)
    assert doubt(kept, FILES._replace(place=5, written=None)) == ""
    assert doubt(kept, FILES._replace(generation=4))


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (FILES._replace(generation=4), "older copy"),
        (FILES._replace(place=78), "directory was put back"),
        (FILES._replace(place=0, generation=0), "directory was put back"),
        (FILES._replace(written=None), "note of what was committed is gone"),
        (FILES._replace(written=Written(Counts(11, 5), 77, None)), "1 events and 0 sends"),
        (FILES._replace(written=Written(Counts(9, 7), 77, None)), "0 events and 2 sends"),
        (FILES._replace(boot_id="another"), "host stopped"),
        (FILES._replace(boot_id=""), "host stopped"),
    ],
)
def test_doubt(files: Beside, reason: str) -> None:
    assert reason in doubt(KEPT, files)


@asyncio_test()
async def test_counts_never_fall_and_what_is_written_is_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "db"
    database = await Database.open(path)
    seen = [Counts()]

    async def look() -> None:
        written = read_written(path)
        assert written is not None
        assert written.counts == await database.read(counts_of)
        seen.append(written.counts)

    batch = database.batch()
    batch.create_app(app_record())
    batch.create_app(AppRecord(2, "other", 0, b"o" * 16, 1, 1))
    batch.journal(1, 1, 0, b"h", b"p")
    batch.journal(1, 3, 0, b"h", b"p")  # 2 was in a batch that was refused
    batch.journal(2, 1, 0, b"h", b"p")
    batch.put_send(send_entry(7))
    await database.commit(batch)
    await look()
    assert seen[-1] == Counts(4, 7)
    batch = database.batch()
    batch.ack(1, 3)
    batch.forget_app(2)
    batch.journal(2, 2, 0, b"h", b"p")  # its last event came in the same turn
    await database.commit(batch)
    await look()
    batch = database.batch()
    batch.finish_send(7, OutboxState.SENT, 0)
    batch.evict_requests(1 << 60)
    batch.journal(1, 4, 0, b"h", b"p")
    await database.commit(batch)
    await look()
    await database.close()
    database = await Database.open(path)
    await look()
    await database.close()
    assert seen == sorted(seen)
    assert seen[-1] == Counts(5, 7)
