"""Storage and retention of the archive: database URL and retention policy.

Both grammars live here, not in the kernel's archive, so that a configuration check rejects what the archive
could not use.

- Database URLs: `sqlite://<path>` (nwaku's form; relative to the data directory, or `sqlite:///absolute`) and
  `postgres://user:password@host:port/database` (`postgresql://` is the same), also with several `host:port`,
  joined by commas: the first one of them that can be written is used.
- Retention: nwaku's `store-message-retention-policy`, a list of `time:<seconds>`, `capacity:<messages>` and
  `size:<number><B|KB|MB|GB>`, separated by `;`, each kind at most once; `none` or nothing keeps everything.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from ipc_schema.config.kinds import parse_size

DEFAULT_DATABASE_URL: Final = "sqlite://store.sqlite3"

DEFAULT_RETENTION: Final = "time:172800"
"""Two days, nwaku's default."""

_NUMBER: Final = re.compile(r"[0-9]{1,15}")


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """Bounds of the archive. None: no such bound."""

    seconds: int | None = None
    messages: int | None = None
    bytes: int | None = None

    def __str__(self) -> str:
        parts = []
        if self.seconds is not None:
            parts.append(f"time:{self.seconds}")
        if self.bytes is not None:
            parts.append(f"size:{self.bytes}B")
        if self.messages is not None:
            parts.append(f"capacity:{self.messages}")
        return ";".join(parts) or "none"


def parse_retention(text: str) -> RetentionPolicy:
    """Parse a policy. Raises `ValueError` with a text for the operator."""
    found: dict[str, int] = {}
    if text.strip().lower() not in ("", "none"):
        for part in text.split(";"):
            kind, colon, value = part.strip().partition(":")
            name = kind.strip().lower()
            if not colon or name not in ("time", "capacity", "size"):
                raise ValueError(
                    f"retention policy {part.strip()!r}: time:<seconds>, capacity:<messages> or size:<n>MB"
                )
            if name in found:
                raise ValueError(f"retention policy {text!r}: {name} stands twice")
            found[name] = _size(value.strip()) if name == "size" else _count(name, value.strip())
    return RetentionPolicy(found.get("time"), found.get("capacity"), found.get("size"))


def _count(name: str, value: str) -> int:
    if _NUMBER.fullmatch(value) is None or int(value) == 0:
        raise ValueError(f"retention policy {name}:{value}: a whole number above 0 is needed")
    return int(value)


def _size(value: str) -> int:
    try:
        # Unlike other sizes, nwaku's policies need a unit and know no decimal comma.
        size = parse_size("" if value[-1:].isdigit() or "," in value else value)
    except ValueError:
        raise ValueError(f"retention policy size:{value}: a number and MB or GB are needed") from None
    if size < 1:
        raise ValueError(f"retention policy size:{value}: more than 0 is needed")
    return size


@dataclass(frozen=True, slots=True)
class ArchiveDatabase:
    """Location of the messages: exactly one of `path` (SQLite) and `url` (PostgreSQL) is set."""

    path: Path | None = None
    url: str | None = field(default=None, repr=False)

    @property
    def shown(self) -> str:
        """Return the location for display, without a password."""
        if self.url is None:
            return f"sqlite://{self.path}"
        parts = urlsplit(self.url)
        user = f"{quote(unquote(parts.username))}@" if parts.username else ""
        host = parts.netloc.rpartition("@")[2]
        return f"postgres://{user}{host}{parts.path}"


def parse_database_url(url: str, directory: Path) -> ArchiveDatabase:
    """Parse a database URL; relative SQLite paths are resolved against `directory`.

    Raises `ValueError`, whose text never quotes a URL that may hold a password.
    """
    scheme, separator, rest = url.partition("://")
    scheme = scheme.lower()
    if separator and scheme == "sqlite":
        path = rest.partition("?")[0]
        if not path or path == ":memory:" or "\0" in path or path.endswith("/"):
            raise ValueError(f"database URL {url!r}: sqlite://<path of a file> is needed")
        return ArchiveDatabase(path=directory / path)
    if separator and scheme in ("postgres", "postgresql"):
        try:
            parts = urlsplit(url)
            for host in parts.netloc.rpartition("@")[2].split(","):
                _ = urlsplit(f"//{host}").port  # accessing the attribute validates it
        except ValueError:
            # The standard library's error quotes what it took for the port, which may be part of a password
            # with an unescaped slash.
            raise ValueError(
                f"database URL: {scheme}://…: bad host or port (escape / and @ in a password as %2F and %40)"
            ) from None
        if not parts.path.strip("/"):
            raise ValueError(f"database URL: {scheme}://…: the database's name is missing")
        return ArchiveDatabase(url=url)
    raise ValueError("database URL: sqlite://<path> or postgres://user:password@host:port/name")
