"""The SQLite engine against a naive model, whatever is stored and asked; its statements; its schema."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipc_schema.message import WakuMessage, message_hash
from kernel_proc.archive.api import CursorNotFound, HistoryQuery
from kernel_proc.archive.engine import DatabaseFailed, RowsRefused
from kernel_proc.archive.rows import ArchivedRow, Offer, make_rows
from kernel_proc.archive.sqlite import SqliteEngine
from kernel_proc.archive.sqlite_file import APPLICATION_ID, SCHEMA_VERSION
from tests.support.archive import NOW, SHARD, Model, make_message

PUBSUB = st.sampled_from(["/waku/2/rs/1/0", "/waku/2/rs/1/1", "/x", ""])
CONTENT = st.sampled_from(["/a/1/x/proto", "/a/1/y/proto", "/a\0", ""])
TIME = st.one_of(st.integers(0, 6), st.sampled_from([-(1 << 63), -1, (1 << 63) - 1]))
MESSAGES = st.lists(
    st.tuples(
        PUBSUB,
        st.builds(
            WakuMessage,
            payload=st.binary(max_size=2),
            content_topic=CONTENT,
            version=st.integers(0, 2),
            ephemeral=st.just(False),
            timestamp=TIME,
            meta=st.binary(max_size=1),
            proof=st.binary(max_size=1),
        ),
    ),
    max_size=60,
)


@contextmanager
def opened(path: Path) -> Iterator[SqliteEngine]:
    engine = SqliteEngine(path)
    engine.open()
    with closing(engine):
        yield engine


def rows_of(messages: list[tuple[str, WakuMessage]]) -> list[ArchivedRow]:
    rows, refused = make_rows(Offer(topic, m, message_hash(topic, m), 0) for topic, m in messages)
    assert not refused
    return rows


@st.composite
def queries(draw: Any, digests: list[bytes]) -> HistoryQuery:
    known = st.sampled_from([*digests, bytes(32)])
    return HistoryQuery(
        pubsub_topic=draw(st.none() | PUBSUB),
        content_topics=tuple(draw(st.lists(CONTENT, max_size=3))),
        start=draw(st.none() | TIME),
        end=draw(st.none() | TIME),
        hashes=tuple(draw(st.just([]) | st.lists(known, max_size=25))),
        cursor=draw(st.none() | known),
        forward=draw(st.booleans()),
        limit=draw(st.sampled_from([1, 2, 3, 20, 100])),
        include_data=draw(st.booleans()),
    )


@settings(max_examples=60)
@given(st.data())
def test_agrees_with_a_naive_model(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as place, opened(Path(place) / "store") as engine:
        model = Model()
        for batch in data.draw(st.lists(MESSAGES, min_size=1, max_size=3)):
            held = len(model.rows)
            for topic, message in batch:
                model.add(topic, message)
            assert engine.insert(rows_of(batch)) == len(model.rows) - held
        digests = list(model.rows)
        for query in data.draw(st.lists(queries(digests), min_size=10, max_size=30)):
            try:
                expected = model.query(query)
            except CursorNotFound:
                with pytest.raises(CursorNotFound):
                    engine.read(query, 5.0)
            else:
                assert engine.read(query, 5.0) == expected
        assert engine.totals().messages == len(model.rows)
        # Removing takes the oldest, by the same order.
        count, before = data.draw(st.integers(1, 40)), data.draw(st.none() | st.integers(0, 7))
        order = sorted((m.timestamp, digest) for digest, (_, m) in model.rows.items())
        gone = [key for key in order if before is None or key[0] < before][:count]
        assert engine.remove(count, before) == len(gone)
        left = engine.read(HistoryQuery(forward=True, limit=100), 5.0).messages
        assert [m.message_hash for m in left] == [digest for _, digest in order if (_, digest) not in gone][
            :100
        ]


def test_groups_of_every_size(tmp_path: Path) -> None:
    with opened(tmp_path / "store") as engine:
        stored = 0
        for size in (0, 1, 15, 16, 17, 127, 128, 129, 300):
            rows = rows_of([(SHARD, make_message(NOW + stored + number)) for number in range(size)])
            assert engine.insert(rows) == size
            assert engine.insert(rows) == 0
            stored += size
        assert engine.totals().messages == stored


def test_a_row_that_cannot_be_stored_takes_its_group_along_and_nothing_else(tmp_path: Path) -> None:
    with opened(tmp_path / "store") as engine:
        good = rows_of([(SHARD, make_message(NOW))])
        for bad in (good[0]._replace(timestamp=1 << 63), good[0]._replace(data=None)):  # type: ignore[arg-type]
            with pytest.raises(RowsRefused):
                engine.insert([*good, bad])
            assert engine.totals().messages == 0
        assert engine.insert(good) == 1


def test_no_query_scans_or_sorts(tmp_path: Path) -> None:
    from kernel_proc.archive import sqlite_read

    with opened(tmp_path / "store") as engine:
        engine.insert(rows_of([(SHARD, make_message(NOW + number)) for number in range(100)]))
    with closing(sqlite3.connect(tmp_path / "store")) as connection:
        for statement in (
            *sqlite_read._RANGE.values(),
            *sqlite_read._BY_HASH.values(),
            *sqlite_read._BY_ID.values(),
        ):
            parameters = [None] * statement.count("?")
            plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)]
            assert len(plan) == 1, plan
            assert plan[0].startswith("SEARCH message USING")
        presence = sqlite_read._BY_HASH[100, False]
        (plan_row,) = connection.execute(f"EXPLAIN QUERY PLAN {presence}", [None] * 100)
        assert "COVERING INDEX" in plan_row[3]


def test_a_query_that_takes_too_long_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernel_proc.archive.sqlite.PROGRESS_STEPS", 10)
    with opened(tmp_path / "store") as engine:
        engine.insert(rows_of([(SHARD, make_message(NOW + number)) for number in range(1000)]))
        with pytest.raises(DatabaseFailed, match="longer than"):
            engine.read(HistoryQuery(limit=100), -1.0)
        assert len(engine.read(HistoryQuery(limit=100), 5.0).messages) == 100


def test_the_file_says_what_it_is_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with opened(path):
        assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
        assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_migration_is_all_or_nothing_and_may_be_forbidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kernel_proc.archive import sqlite_file

    path = tmp_path / "store"
    with opened(path) as engine:
        engine.insert(rows_of([(SHARD, make_message(NOW))]))
    later = (*sqlite_file.MIGRATIONS, ("ALTER TABLE message ADD COLUMN more INTEGER", "NO SUCH STATEMENT"))
    monkeypatch.setattr(sqlite_file, "MIGRATIONS", later)
    monkeypatch.setattr(sqlite_file, "SCHEMA_VERSION", len(later))
    with pytest.raises(DatabaseFailed, match="migrate it"):
        SqliteEngine(path, may_migrate=False).open()
    with pytest.raises(DatabaseFailed, match="syntax error"):
        SqliteEngine(path).open()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
        assert len(connection.execute("SELECT * FROM message").fetchone()) == 7
    monkeypatch.setattr(sqlite_file, "MIGRATIONS", (*later[:-1], later[-1][:1]))
    with opened(path) as engine:
        assert engine.totals().messages == 1


def test_closing_while_a_page_is_read_leaves_nothing_open(tmp_path: Path) -> None:
    engine = SqliteEngine(tmp_path / "store")
    engine.open()
    with engine._reader(5.0) as connection:
        engine.close()
        assert connection.execute("SELECT 1").fetchone() == (1,)
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")
