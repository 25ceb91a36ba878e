"""Copy what a node must not lose, also while it runs, and put such a copy in place of what is there.

A backup is a directory, for its owner only: `manifest.json` and one file for each of the node's. SQLite
databases are copied by its online backup, one read transaction, so that a copy is the database as it was at
one moment. Restored databases leave their sidecar files behind (`.generation`, `.written`): without them a
Messaging API gives every app's stream a new id, so that no number ever stands for two events.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from logos_process.directories import make_parents, private_directory
from logos_process.files import replace_file

MANIFEST: Final = "manifest.json"
FORMAT: Final = "logos-backup"
VERSION: Final = 1
DATABASE: Final = "mapi.sqlite3"
ARCHIVE: Final = "store.sqlite3"
SPOOL: Final = "store-spool.sqlite3"
"""Messages that are not in the archive yet, because its PostgreSQL is away."""
PLAIN_FILES: Final = ("nodekey", "enr", "peers.json", "links.json", "resume.json")
_SIDE: Final = ("-wal", "-shm", ".generation", ".written", ".damaged")
_MAX_MANIFEST: Final = 1 << 20


class BackupError(Exception):
    """The copy cannot be made, or is not one; the text says why."""


@dataclass(frozen=True, slots=True)
class BackupFile:
    """One file of a backup."""

    name: str
    size: int
    sha256: str


def back_up(
    data_dir: Path, target: Path, *, archive: Path | None, spool: bool, version: str
) -> tuple[BackupFile, ...]:
    """Copy the node of a data directory to a new directory. `archive`: the SQLite file of its store; `spool`:
    also copy what waits for its PostgreSQL.

    Raises `BackupError`, or OSError.
    """
    if target.exists():
        raise BackupError(f"{target} exists already")
    make_parents(target)
    # Under another name until it is whole: what has the name is a backup.
    draft = target.with_name(target.name + ".part")
    draft.mkdir(mode=0o700)
    databases = {DATABASE: data_dir / DATABASE} | ({} if archive is None else {ARCHIVE: archive})
    try:
        made = [_copy_database(path, draft / name) for name, path in databases.items() if path.exists()]
        if spool:
            made += _copy_spool(data_dir / SPOOL, draft / SPOOL)
        made += [_copy(data_dir / name, draft / name) for name in PLAIN_FILES if (data_dir / name).exists()]
        if not made:
            raise BackupError(f"there is no node's data in {data_dir}")
        rows = {one.name: {"size": one.size, "sha256": one.sha256} for one in made}
        manifest = {"format": FORMAT, "version": VERSION, "software": version, "made_ns": time.time_ns()}
        replace_file(draft / MANIFEST, json.dumps({**manifest, "files": rows}, indent=2) + "\n")
        _sync(draft)
        draft.rename(target)
        _sync(target.parent)
    except BaseException:
        shutil.rmtree(draft)
        raise
    return tuple(made)


def read_backup(source: Path) -> tuple[BackupFile, ...]:
    """Return the files of a backup after checking each against the manifest. Raises `BackupError`."""
    path = source / MANIFEST
    try:
        if path.stat().st_size > _MAX_MANIFEST:
            raise BackupError(f"{path} is too large")
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT or int(manifest["version"]) > VERSION:
            raise BackupError(f"{path}: format {manifest['format']} {manifest['version']} is not known")
        files = tuple(
            BackupFile(str(name), int(row["size"]), str(row["sha256"]))
            for name, row in manifest["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BackupError(f"{source} is not a backup: {error!r}") from None
    allowed = {DATABASE, ARCHIVE, SPOOL, *PLAIN_FILES}
    for one in files:
        if one.name not in allowed:
            raise BackupError(f"{source}: {one.name!r} is not a file of a node")
        try:
            found = _described(source / one.name)
        except OSError as error:
            raise BackupError(f"{source} is not complete: {error}") from None
        if found != one:
            raise BackupError(f"{source / one.name} is not the file that was written: it is damaged")
    return files


def restore(
    source: Path, files: Iterable[BackupFile], data_dir: Path, *, archive: Path | None, aside: str
) -> Path | None:
    """Put the files of a checked backup into a data directory whose node does not run.

    What they replace is moved to the subdirectory `aside`, sidecar files and write-ahead logs included.
    Returns that directory, None if nothing was there. Raises OSError.
    """
    make_parents(data_dir)
    private_directory(data_dir)
    targets = {one.name: data_dir / one.name for one in files}
    if archive is not None and ARCHIVE in targets:
        targets[ARCHIVE] = archive
    # Copied first, renamed last: an interruption leaves the old node or the new one, not half of each.
    drafts = {}
    for name, target in targets.items():
        make_parents(target)
        drafts[target] = target.with_name(target.name + ".restoring")
        drafts[target].unlink(missing_ok=True)
        _copy(source / name, drafts[target])
    place = data_dir / aside
    replaced = _move_aside(targets, place)
    for target, draft in drafts.items():
        draft.replace(target)
        _sync(target.parent)
    return place if replaced else None


def _move_aside(targets: Mapping[str, Path], place: Path) -> bool:
    replaced = False
    for name, target in targets.items():
        suffixes = ("",) if name in PLAIN_FILES else ("", *_SIDE)
        for suffix in suffixes:
            old = target.with_name(target.name + suffix)
            if old.exists():
                place.mkdir(mode=0o700, exist_ok=True)
                old.rename(place / (name + suffix))
                replaced = True
    return replaced


def _copy_database(source: Path, target: Path) -> BackupFile:
    target.touch(mode=0o600, exist_ok=False)
    try:
        # Not mode=ro: a database in WAL mode that no process has open needs its -shm file created.
        with (
            contextlib.closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=rw", uri=True)) as one,
            contextlib.closing(sqlite3.connect(target)) as other,
        ):
            one.execute("PRAGMA query_only = ON")
            one.execute("PRAGMA busy_timeout = 5000")
            one.backup(other)
            # One file: a copy in WAL mode would want a log beside it as soon as it is looked at.
            other.execute("PRAGMA journal_mode = DELETE")
            (verdict,) = other.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as error:
        raise BackupError(f"cannot copy {source}: {error}") from error
    if verdict != "ok":
        raise BackupError(f"{source} is damaged: {verdict}")
    _sync(target)
    return _described(target)


def _copy_spool(source: Path, target: Path) -> list[BackupFile]:
    """Copy a file that a running node removes as soon as it is empty."""
    if not source.exists():
        return []
    try:
        return [_copy_database(source, target)]
    except BackupError:
        if source.exists():
            raise
    target.unlink()
    return []


def _copy(source: Path, target: Path) -> BackupFile:
    with source.open("rb") as reader:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as writer:
            shutil.copyfileobj(reader, writer)
            writer.flush()
            os.fsync(writer.fileno())
    return _described(target)


def _described(path: Path) -> BackupFile:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return BackupFile(path.name, os.fstat(file.fileno()).st_size, digest)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
