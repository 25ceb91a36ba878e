"""Kernels that are killed (SIGKILL) at any step of the migration of version 1's tables: the next one goes on,
and messages are stored and found all the time."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kernel_proc.archive.engine import DatabaseFailed
from kernel_proc.archive.postgres import PostgresEngine
from tests.integration.test_archive_partitions import (
    KEEPS,
    START,
    VERSION_1,
    WIDTH,
    S,
    hashes,
    in_order,
    names,
    rows_of,
    spread,
)
from tests.support.archive import Model
from tests.support.kernel_process import eventually
from tests.support.postgres import PostgresServer

pytestmark = pytest.mark.integration

KERNELS = """
import json, os, signal, sys
import psycopg
import trio
from kernel_proc.archive import make_archive, postgres
from tests.support.archive import running, settings_for

async def kernel(url, now):
    async with running(settings_for(url), clock=lambda: now):
        await trio.sleep_forever()

def dies(point, after):
    execute = psycopg.Connection.execute
    def dying(self, query, *rest, **more):
        reached = point in bytes(query).decode() if isinstance(query, bytes) else point in query
        if reached and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        cursor = execute(self, query, *rest, **more)
        if reached:
            os.kill(os.getpid(), signal.SIGKILL)
        return cursor
    psycopg.Connection.execute = dying

for line in sys.stdin:
    url, now, point, after = json.loads(line)
    pid = os.fork()
    if not pid:
        if point:
            dies(point, after)
        trio.run(kernel, url, now)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""
"""Runs a kernel's archive for each line, which dies before or after a statement."""

POINTS = (
    ("CREATE UNIQUE INDEX CONCURRENTLY", False),
    ("CREATE UNIQUE INDEX CONCURRENTLY", True),
    ("RENAME TO logos_message_last", True),
    ("CREATE TABLE logos_message", True),
    ("ATTACH PARTITION logos_message_last", True),
    ("UPDATE logos_schema", True),
    # The migration is committed; the table is cut now.
    ("ADD CONSTRAINT logos_message_bound", True),
    ("VALIDATE CONSTRAINT", False),
    ("VALIDATE CONSTRAINT", True),
    ("DETACH PARTITION", True),
    ("ATTACH PARTITION logos_message_first", True),
    ("DROP TABLE logos_message_held", True),
)


@pytest.fixture
def database(postgres: PostgresServer) -> str:
    name = postgres.new_database()
    for statement in VERSION_1.read_text().split(";"):
        if statement.strip():
            postgres.execute(statement, name)
    return name


@pytest.fixture
def engine(postgres: PostgresServer, database: str) -> Iterator[PostgresEngine]:
    made = PostgresEngine(postgres.url(database), shown="the database")
    made.open()
    yield made
    made.close()


@pytest.fixture
def kernels() -> Iterator[Callable[[str, str, bool], Iterator[int]]]:
    """Starts a kernel: yields its process id, then its exit code."""
    process = subprocess.Popen(
        [sys.executable, "-c", KERNELS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdin is not None
    assert process.stdout is not None

    def start(url: str, point: str = "", after: bool = False) -> Iterator[int]:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps([url, START, point, after]) + "\n")
        process.stdin.flush()
        yield int(process.stdout.readline())
        yield int(process.stdout.readline())

    try:
        yield start
        process.stdin.close()
        process.wait(30)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_kill_at_any_statement_loses_nothing_and_the_next_kernel_goes_on(
    postgres: PostgresServer,
    database: str,
    engine: PostgresEngine,
    kernels: Callable[[str, str, bool], Iterator[int]],
) -> None:
    model = spread(300, START, begin=START - WIDTH)
    far = spread(3, START + 10**9 * S, seed=9, begin=START + 10**8 * S).rows
    model.rows.update(far)
    engine.insert(rows_of(model))
    for number, (point, after) in enumerate(POINTS):
        _, code = kernels(postgres.url(database), point, after)
        assert code == -signal.SIGKILL, (point, code)
        # Those dated years ahead, which no relay brings, are held while the last partition is cut.
        assert [digest for digest in hashes(engine) if digest not in far] == in_order(model)[:-3], point
        more = spread(5, START, seed=100 + number, begin=START - WIDTH)
        assert engine.insert(rows_of(more)) == 5, point
        model.rows.update(more.rows)
    take_over(engine)
    assert hashes(engine) == in_order(model)
    assert postgres.execute("SELECT version FROM logos_schema", database) == [(2,)]
    assert names(postgres, database) == ["logos_message_first", "logos_message_last"]
    assert postgres.execute("SELECT to_regclass('logos_message_held')", database) == [(None,)]
    assert postgres.execute("SELECT count(*) FROM pg_constraint WHERE conname LIKE '%bound'", database) == [
        (0,)
    ]


def test_a_kill_while_the_server_builds_the_index(
    postgres: PostgresServer,
    database: str,
    engine: PostgresEngine,
    kernels: Callable[[str, str, bool], Iterator[int]],
) -> None:
    """It goes on building: the next kernel neither begins again nor stops anything meanwhile."""
    import psycopg

    def builds() -> bool:
        return bool(postgres.execute("SELECT pid FROM pg_stat_progress_create_index", database))

    model = spread(300, START, begin=START - WIDTH)
    engine.insert(rows_of(model))
    with psycopg.connect(postgres.url(database)) as other:
        # The build waits for writers that began before it.
        other.execute("LOCK TABLE logos_message IN ROW EXCLUSIVE MODE")
        kernel = kernels(postgres.url(database), "", False)
        pid = next(kernel)
        eventually(builds, 30)
        subprocess.run(["kill", "-KILL", str(pid)], check=True)
        assert next(kernel) == -signal.SIGKILL
        eventually(engine.claim, 20)
        with pytest.raises(DatabaseFailed, match="still building"):
            engine.prepare(START, KEEPS)
        engine.release()
        more: Model = spread(20, START, seed=2, begin=START - WIDTH)
        assert engine.insert(rows_of(more)) == 20
        model.rows.update(more.rows)
        assert hashes(engine) == in_order(model)
        assert builds()
    eventually(lambda: not builds(), 20)
    take_over(engine)
    assert hashes(engine) == in_order(model)
    assert postgres.execute("SELECT version FROM logos_schema", database) == [(2,)]


def test_a_claim_that_was_lost_during_a_long_step_ends_the_round(
    postgres: PostgresServer, database: str, engine: PostgresEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another kernel may be at work by then. During the step itself, silence costs no claim."""
    engine.insert(rows_of(spread(20, START, begin=START - WIDTH)))
    limits: list[str] = []
    allow_idle = engine._allow_idle

    def observed(seconds: float) -> None:
        allow_idle(seconds)
        assert engine._claim is not None
        ((limit,),) = engine._claim[1].execute("SHOW idle_in_transaction_session_timeout").fetchall()
        limits.append(limit)
        if len(limits) == 1:
            postgres.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction'"
            )

    monkeypatch.setattr(engine, "_allow_idle", observed)
    assert engine.claim()
    with pytest.raises(DatabaseFailed):
        engine.prepare(START, KEEPS)
    assert limits == ["375min"]  # more than six hours
    assert postgres.execute("SELECT version FROM logos_schema", database) == [(1,)]
    take_over(engine)
    assert limits[1:3] == ["375min", "15min"]
    assert postgres.execute("SELECT version FROM logos_schema", database) == [(2,)]


def take_over(engine: PostgresEngine) -> None:
    """A round of upkeep, as soon as the server knows that the one before has ended."""
    eventually(engine.claim, 20)
    engine.prepare(START, KEEPS)
    engine.release()
