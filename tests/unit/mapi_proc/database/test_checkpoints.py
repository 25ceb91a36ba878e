"""When the write-ahead log is moved into the file."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from mapi_proc.database import Database, KernelPosition
from mapi_proc.database.checkpoints import FRAME_BYTES, LOG_BYTES, LogGrowth
from tests.support.aio import asyncio_test
from tests.unit.mapi_proc.database.support import app_record


@asyncio_test(60)
async def test_the_log_stays_short_under_steady_small_commits(tmp_path: Path) -> None:
    path = tmp_path / "mapi.sqlite3"
    log = path.with_name(path.name + "-wal")
    database = await Database.open(path)
    batch = database.batch()
    batch.create_app(app_record())
    await database.commit(batch)
    longest = 0
    for seq in range(1, 1500):
        batch = database.batch()
        batch.journal(1, seq, seq, os.urandom(100), os.urandom(1024))
        batch.remember(0, seq, os.urandom(32))
        batch.delivered(1, seq, os.urandom(32))
        batch.position(KernelPosition("m/1/0", b"i" * 16, b"e" * 8, seq, seq))
        if seq % 50 == 0:
            batch.ack(1, seq)
        await database.commit(batch)
        longest = max(longest, log.stat().st_size)
    await database.close()
    assert LOG_BYTES // 2 < longest < LOG_BYTES + (2 << 20)


@given(
    a_commit=st.integers(1, 60),
    sizes=st.lists(st.integers(64, 4096), min_size=1, max_size=50),
    pinned=st.sets(st.integers(0, 20)),
)
def test_the_growth_between_two_checkpoints_is_learned(
    a_commit: int, sizes: list[int], pinned: set[int]
) -> None:
    """`a_commit`: pages that each commit writes besides its content; `pinned`: checkpoints that a reader
    keeps from finishing."""
    growth = LogGrowth(1 << 20)
    frames = 0
    for number in range(12):
        begun = frames
        while not growth.due:
            size = sizes[frames % len(sizes)]
            frames += a_commit + -(-size // 4096)
            growth.committed(size)
        if number > 0:  # after the first answer it knows
            written = (frames - begun) * FRAME_BYTES
            # One commit may go beyond it, and content fills pages only in part.
            most = (1 << 20) * 2 + (a_commit + 2) * FRAME_BYTES
            assert written <= most
        growth.checkpointed(frames, frames // 2 if number in pinned else frames)
        if number not in pinned:
            frames = 0


def test_a_checkpoint_that_fails_is_made_again_after_as_much_again() -> None:
    growth = LogGrowth(1 << 20)
    commits = [0, 0]
    for part in (0, 1):
        while not growth.due:
            growth.committed(1000)
            commits[part] += 1
        growth.failed()
    assert 20 < commits[0] == commits[1] < 40
