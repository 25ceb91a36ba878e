from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kernel_proc.archive import make_engine
from kernel_proc.archive.api import ArchiveConfigError
from kernel_proc.archive.settings import DEFAULT_URL, ArchiveSettings, Database, parse_database_url

DIRECTORY = Path("/data")


@pytest.mark.parametrize(
    ("url", "path"),
    [
        (DEFAULT_URL, "/data/store.sqlite3"),
        ("sqlite://below/store", "/data/below/store"),
        ("sqlite:///var/lib/store", "/var/lib/store"),
        ("SQLITE://store", "/data/store"),
    ],
)
def test_sqlite(url: str, path: str) -> None:
    database = parse_database_url(url, DIRECTORY)
    assert database == Database(path=Path(path))
    assert database.shown == f"sqlite://{path}"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgres://user:secret@host:5432/name", "postgres://user@host:5432/name"),
        ("postgresql://host/name?password=secret", "postgres://host/name"),
        ("postgres://us%40er:sec%2Fret@[::1]:5432/name", "postgres://us%40er@[::1]:5432/name"),
        ("postgres:///name?host=/run/secret", "postgres:///name"),
    ],
)
def test_postgres_without_its_password(url: str, shown: str) -> None:
    database = parse_database_url(url, DIRECTORY)
    assert database.url == url
    assert database.shown == shown
    assert "secret" not in repr(database)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "store.sqlite3",
        "sqlite://",
        "sqlite://:memory:",
        "sqlite://directory/",
        "mysql://user:secret@host/name",
        "postgres://user:secret@host",
        "postgres://user:secret@host:port/name",
        "postgres://user:secret@[::1/name",
    ],
)
def test_what_cannot_be_read_does_not_show_a_password(url: str) -> None:
    with pytest.raises(ArchiveConfigError, match="database URL") as refused:
        parse_database_url(url, DIRECTORY)
    assert "secret" not in str(refused.value)


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kernel_proc.archive.postgres", None)
    settings = ArchiveSettings(database=parse_database_url("postgres://u:secret@h/name", DIRECTORY))
    with pytest.raises(ArchiveConfigError, match=r"logos-mapi\[postgres\]") as refused:
        make_engine(settings)
    assert "secret" not in str(refused.value)


def test_connections_are_bounded_as_set(tmp_path: Path) -> None:
    for connections, readers in ((2, 1), (3, 2), (50, 4)):
        settings = ArchiveSettings(
            database=parse_database_url("sqlite://s", tmp_path), max_connections=connections
        )
        assert make_engine(settings).readers == readers
    shared = ArchiveSettings(database=parse_database_url("postgres://h/n", tmp_path), max_connections=50)
    assert make_engine(shared).readers == 49
