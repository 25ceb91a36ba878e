from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ipc_schema.config.archive import parse_database_url
from kernel_proc.archive import make_engine
from kernel_proc.archive.api import ArchiveConfigError
from kernel_proc.archive.settings import ArchiveSettings


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kernel_proc.archive.postgres", None)
    settings = ArchiveSettings(database=parse_database_url("postgres://u:secret@h/name", Path("/data")))
    with pytest.raises(ArchiveConfigError, match=r"pip install .psycopg\[binary\]") as refused:
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
