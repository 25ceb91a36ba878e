"""Migrations."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest

from mapi_proc.database import Batch
from mapi_proc.database.reader import read_page
from mapi_proc.database.schema import APPLICATION_ID, MIGRATIONS, migrate
from mapi_proc.database.statements import execute_batch


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as made:
        yield made


def pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def test_a_new_file_gets_every_step(connection: sqlite3.Connection) -> None:
    assert migrate(connection)
    assert pragma(connection, "user_version") == len(MIGRATIONS)
    assert pragma(connection, "application_id") == APPLICATION_ID
    assert not migrate(connection)


def test_an_old_file_gets_the_missing_steps_and_keeps_its_rows(connection: sqlite3.Connection) -> None:
    first = "CREATE TABLE a (x INTEGER);"
    migrate(connection, (first,))
    connection.execute("INSERT INTO a VALUES (1)")
    assert not migrate(connection, (first, "ALTER TABLE a ADD COLUMN y INTEGER DEFAULT 2;"))
    assert connection.execute("SELECT * FROM a").fetchall() == [(1, 2)]
    assert pragma(connection, "user_version") == 2


def test_a_step_that_fails_leaves_the_version_before_it(connection: sqlite3.Connection) -> None:
    steps = ("CREATE TABLE a (x INTEGER);", "CREATE TABLE b (x INTEGER); CREATE TABLE a (x INTEGER);")
    with pytest.raises(sqlite3.OperationalError):
        migrate(connection, steps)
    assert pragma(connection, "user_version") == 1
    assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("a",)]
    assert not connection.in_transaction


def test_what_a_send_has_used_of_its_window_becomes_when_it_began(connection: sqlite3.Connection) -> None:
    migrate(connection, MIGRATIONS[:3])
    # timestamp, message_hash, first_attempt, propagated, elapsed, finished, detail
    row = "x'01', x'02', x'03', '/t', x'04', x'', 0, 5, ?, 1, 6, x'07', 6, 0, ?, 0, ''"
    for number, state, elapsed in ((1, 1, 8), (2, 12, 9)):
        connection.execute(
            f"INSERT INTO outbox VALUES (?, {row.replace('02', f'{number:02}')})",
            (number, state, elapsed),
        )
    migrate(connection)
    found = connection.execute("SELECT first_attempt, elapsed FROM outbox ORDER BY id").fetchall()
    assert found == [(-8, 0), (6, 9)], "of what is over, nothing is asked"


def test_events_of_an_earlier_version_are_read_as_before(connection: sqlite3.Connection) -> None:
    migrate(connection, MIGRATIONS[:5])
    for seq in (1, 2):
        connection.execute(
            "INSERT INTO journal VALUES (?, 5, 9, NULL, ?, ?)", (1 << 40 | seq, b"h%d" % seq, b"p")
        )
    migrate(connection)
    batch = Batch(itertools.count(1))
    for seq in (3, 4):
        batch.journal(1, seq, 6, b"h%d" % seq, b"p")
    execute_batch(connection, batch)
    assert read_page(connection, 1, 0, 9, 999, 9) == [(seq, b"h%d" % seq, b"p") for seq in (1, 2, 3, 4)]
