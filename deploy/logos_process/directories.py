"""Private directories: created with their mode under any umask, rejected if another user owns them."""

from __future__ import annotations

import errno
import grp
import os
import stat
from pathlib import Path

from logos_process.exits import StartError


def private_directory(path: Path, group: int | None = None) -> None:
    """Make `path` private: 0700, or 2750 for a group, which sockets created in it inherit (setgid), so that
    they have the right group from the start.

    Without a group, the directory may still be made passable for what is below (0710, see `let_group_pass`).
    Raise OSError, also for a directory of another user, who could put a socket or a database in place of
    ours.
    """
    make_parents(path, group)
    mode = 0o700 if group is None else 0o2750
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        if not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "is not a directory", str(path)) from None
    status = path.stat()
    if status.st_uid != os.geteuid():
        raise PermissionError(
            errno.EPERM, f"belongs to uid {status.st_uid}, this process is uid {os.geteuid()}", str(path)
        )
    if group is not None and status.st_gid != group:
        os.chown(path, -1, group)
    current = stat.S_IMODE(status.st_mode)
    private = current & 0o700 == 0o700 and not current & 0o067 if group is None else current == mode
    if not private:
        path.chmod(mode)


def make_parents(path: Path, group: int | None = None) -> None:
    """Create the missing parents of `path` with mode 0700, or 0710 so that a group can pass. Existing ones
    are unchanged.

    `mkdir(parents=True)` would leave new ones open to whatever the umask allows.
    """
    missing = [parent for parent in path.absolute().parents if not parent.exists()]
    for parent in reversed(missing):
        try:
            parent.mkdir(mode=0o700)
        except FileExistsError:
            continue  # another process of the node was faster
        if group is not None:
            os.chown(parent, -1, group)
        parent.chmod(0o700 if group is None else 0o710)


def let_group_pass(path: Path, group: int) -> None:
    """Let a group pass through one of our closed directories to what it may reach below: 0710, which does
    not allow listing."""
    status = path.stat()
    if status.st_uid == os.geteuid() and not status.st_mode & 0o001:
        if status.st_gid != group:
            os.chown(path, -1, group)
        path.chmod(stat.S_IMODE(status.st_mode) & 0o700 | 0o010)


def group_number(group: str | None) -> int | None:
    """Return the number of a group given by name or number. Raise `StartError`."""
    if group is None or group.isdigit():
        return None if group is None else int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise StartError(f"ipc-group: no such group {group!r}") from None
