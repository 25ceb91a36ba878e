"""Database URLs and retention policies of the archive."""

from __future__ import annotations

from pathlib import Path

import pytest

from ipc_schema.config.archive import (
    DEFAULT_DATABASE_URL,
    DEFAULT_RETENTION,
    ArchiveDatabase,
    RetentionPolicy,
    parse_database_url,
    parse_retention,
)
from ipc_schema.config.kernel import load_kernel_config
from ipc_schema.config.options import ConfigError

DIRECTORY = Path("/data")


@pytest.mark.parametrize(
    ("url", "path"),
    [
        (DEFAULT_DATABASE_URL, "/data/store.sqlite3"),
        ("sqlite://below/store", "/data/below/store"),
        ("sqlite:///var/lib/store", "/var/lib/store"),
        ("SQLITE://store", "/data/store"),
    ],
)
def test_sqlite(url: str, path: str) -> None:
    database = parse_database_url(url, DIRECTORY)
    assert database == ArchiveDatabase(path=Path(path))
    assert database.shown == f"sqlite://{path}"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgres://user:secret@host:5432/name", "postgres://user@host:5432/name"),
        ("postgresql://host/name?password=secret", "postgres://host/name"),
        ("postgres://us%40er:sec%2Fret@[::1]:5432/name", "postgres://us%40er@[::1]:5432/name"),
        ("postgres:///name?host=/run/secret", "postgres:///name"),
        (
            "postgres://user:secret@one:5432,[::1]:5433,two/name",
            "postgres://user@one:5432,[::1]:5433,two/name",
        ),
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
        "postgres://user:secret/word@host/name",
        "postgres://user:secret@[::1/name",
        "postgres://user:secret@one,two:port/name",
    ],
)
def test_what_cannot_be_read_does_not_show_a_password(url: str) -> None:
    with pytest.raises(ValueError, match="database URL") as refused:
        parse_database_url(url, DIRECTORY)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        (DEFAULT_RETENTION, RetentionPolicy(seconds=172_800)),
        ("time:3600", RetentionPolicy(seconds=3600)),
        ("capacity:25000", RetentionPolicy(messages=25_000)),
        ("size:25GB", RetentionPolicy(bytes=25_000_000_000)),
        ("size:1.5 mb", RetentionPolicy(bytes=1_500_000)),
        ("size:2GiB", RetentionPolicy(bytes=2 << 30)),
        (" time:60 ; Size:1MB;capacity:5", RetentionPolicy(60, 5, 1_000_000)),
        ("", RetentionPolicy()),
        ("none", RetentionPolicy()),
    ],
)
def test_policies(text: str, policy: RetentionPolicy) -> None:
    assert parse_retention(text) == policy
    assert parse_retention(str(policy)) == policy


@pytest.mark.parametrize(
    "text",
    [
        "time",
        "time:",
        "time:-1",
        "time:0",
        "time:1h",
        "time:1.5",
        "capacity:many",
        "capacity:٣",
        "size:1",
        "size:MB",
        "size:1TB",
        "size:0MB",
        "size:1,5MB",
        "age:3",
        "time:1;time:2",
        "time:1;",
        "time:1;none",
        "time:1,size:1MB",
        "time:" + "9" * 30,
    ],
)
def test_a_bad_policy_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="retention policy"):
        parse_retention(text)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("store-message-retention-policy", "forever"),
        ("store-message-retention-policy", "time:1;time:2"),
        ("store-message-db-url", "mysql://host/name"),
        ("store-message-db-url", "sqlite://:memory:"),
        ("store-message-db-url", "postgres://host"),
        ("store-message-db-read-url", "sqlite://copy.sqlite3"),
        ("store-message-spool-size", "-1"),
        ("dns4-domain-name", "under_score.example"),
        ("dns4-domain-name", "-a.example"),
        ("dns4-domain-name", "a.example-"),
        ("dns4-domain-name", "192.0.2.1"),
    ],
)
def test_the_configuration_refuses_what_the_kernel_could_not_use(option: str, value: str) -> None:
    with pytest.raises(ConfigError, match=option):
        load_kernel_config(flags={"store": True, option: value})
