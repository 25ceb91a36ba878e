"""Claim what a process needs before anything else: its directories, their locks, its socket paths."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from ipc_schema.paths import lock_path, socket_path
from logos_process.directories import group_number, let_group_pass, make_parents, private_directory
from logos_process.endpoints import bindable
from logos_process.exits import ExitCode, StartError
from logos_process.lock import FileLock, LockedError


def claim(
    stack: ExitStack,
    *,
    data_dir: Path,
    lock_name: str,
    socket_dir: Path,
    endpoints: Iterable[str],
    group: str | None = None,
) -> tuple[str, ...]:
    """Create and lock the directories. Return the endpoints to bind.

    Nothing owned by another process is touched: each directory is locked before the next step. The locks are
    held until `stack` is closed. `lock_name` is the lock file in the data directory, which several kinds of
    process share. Raise `StartError`.
    """
    number = group_number(group)
    try:
        private_directory(data_dir)
        stack.enter_context(FileLock.acquire(data_dir / lock_name, f"the data directory {data_dir}"))
        private_directory(socket_dir, number)
        if number is not None:
            inside = [path for path in socket_dir.parents if path.is_relative_to(data_dir)]
            for above in inside or [socket_dir.parent]:
                let_group_pass(above, number)
        stack.enter_context(FileLock.acquire(lock_path(socket_dir), f"the socket directory {socket_dir}"))
        bound = tuple(bindable(endpoint) for endpoint in endpoints)
        for endpoint in bound:
            path = socket_path(endpoint)
            if path is not None and path.parent != socket_dir.absolute():
                _claim_path(stack, path, number)
    except LockedError as error:
        raise StartError(str(error), ExitCode.FAILED) from error
    except OSError as error:
        raise StartError.of(f"data-dir: {error.filename or data_dir}", error) from error
    return bound


def claim_directory(stack: ExitStack, directory: Path) -> None:
    """Create and lock the run directory of a process without sockets of its own, until `stack` is closed.

    Raise `StartError`.
    """
    try:
        private_directory(directory)
        stack.enter_context(FileLock.acquire(lock_path(directory), f"the directory {directory}"))
    except LockedError as error:
        raise StartError(str(error), ExitCode.FAILED) from error
    except OSError as error:
        raise StartError.of(f"ipc-dir: {directory}", error) from error


def _claim_path(stack: ExitStack, path: Path, group: int | None) -> None:
    """Claim a socket path configured outside our directories.

    libzmq removes whatever exists at the path of a socket that it binds, even the socket of a running
    process, so the path has its own lock.
    """
    parent = path.parent
    if not parent.exists():
        private_directory(parent, group)
    status = parent.stat()
    others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if status.st_uid not in (0, os.geteuid()) or (others and not status.st_mode & stat.S_ISVTX):
        raise StartError(
            f"ipc://{path}: other users can replace files in {parent} ({stat.filemode(status.st_mode)}); "
            "use a directory that only this user can write"
        )
    make_parents(path, group)
    lock = path.with_name(f"{path.name}.lock")
    stack.enter_context(FileLock.acquire(lock, f"the socket {path}"))
