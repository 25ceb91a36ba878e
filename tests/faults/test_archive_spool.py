"""Messages on disk while the archive's server is away: in a backup, and in a file that is damaged."""

from __future__ import annotations

from pathlib import Path

import trio

from kernel_proc.archive.api import ArchiveState
from kernel_proc.archive.settings import ArchiveSettings
from logos_deploy.exits import Exit
from logos_deploy.node.backup import SPOOL
from tests.integration.logos_node import logos
from tests.support.aio import trio_test
from tests.support.archive import (
    NOW,
    SHARD,
    StateLog,
    make_message,
    offer,
    running,
    settings_for,
    stored_numbers,
)
from tests.support.postgres import PostgresServer

COUNT = 3000


def with_spool(url: str, path: Path) -> ArchiveSettings:
    return settings_for(url, spool=path, queue_messages=500)


def spool(path: Path, *, then: tuple[str, ...] = ()) -> None:
    """Have an archive whose server is away put messages on disk; run a command while it still does."""

    @trio_test(deadline=60)
    async def run() -> None:
        async with running(with_spool("postgres://archive@127.0.0.1:1/none", path), wait=False) as archive:
            number = 0
            while number < COUNT:
                number += offer(archive, SHARD, make_message(NOW + number))
                await trio.sleep(0)
            while archive.backlog().on_disk < COUNT:
                await trio.sleep(0.005)
            if then:
                done = await trio.to_thread.run_sync(lambda: logos(*then))
                assert done.returncode == Exit.OK, done.stderr

    run()


def test_what_waits_on_disk_is_in_a_backup_of_the_running_node(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    node, copy, other = tmp_path / "node", tmp_path / "copy", tmp_path / "other"
    node.mkdir(0o700)
    spool(node / SPOOL, then=("backup", str(copy), "--data-dir", str(node)))
    assert logos("restore", str(copy), "--data-dir", str(other)).returncode == Exit.OK

    @trio_test(deadline=60)
    async def run() -> None:
        async with running(with_spool(postgres.url(postgres.new_database()), other / SPOOL)) as archive:
            await archive.flush()
            assert await stored_numbers(archive) == list(range(COUNT))
        assert not (other / SPOOL).exists()

    run()
    without = logos("backup", str(tmp_path / "none"), "--data-dir", str(node), "--without-archive")
    assert without.returncode == Exit.FAILED  # there is nothing else


def test_a_damaged_spool_does_not_hold_up_what_follows(postgres: PostgresServer, tmp_path: Path) -> None:
    path = tmp_path / SPOOL
    spool(path)
    with path.open("r+b") as file:
        for page in range(3, path.stat().st_size // 8192, 3):
            file.seek(page * 8192)
            file.write(b"\xa5" * 8192)

    @trio_test(deadline=60)
    async def run() -> None:
        log = StateLog()
        settings = with_spool(postgres.url(postgres.new_database()), path)
        async with running(settings, log=log) as archive:
            assert offer(archive, SHARD, make_message(NOW + COUNT))
            await archive.flush()
            assert COUNT in await stored_numbers(archive)
            (damaged,) = archive.backlog().damaged
            assert path.with_name(damaged).exists()
            assert archive.counters["spool_failures"] == 1
            postgres.stop()
            try:
                await log.reach(ArchiveState.STALLED)
                assert offer(archive, SHARD, make_message(NOW + COUNT + 1))
                while not archive.backlog().on_disk:
                    await trio.sleep(0.005)
            finally:
                postgres.start()
            await log.reach(ArchiveState.READY)
            await archive.flush()
            assert (await stored_numbers(archive))[-2:] == [COUNT, COUNT + 1]

    run()
