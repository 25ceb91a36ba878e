"""What MAPI needs of its host: private directories, one process per directory, sockets that only their users
reach.

The kernel has the same needs and its own module for them: the two processes share the contract and nothing
else.
"""

from __future__ import annotations

import fcntl
import grp
import ipaddress
import os
from pathlib import Path
from typing import Final

import zmq

from ipc_schema.paths import socket_path

__all__ = ["HostError", "bind", "group_number", "lock", "private_directory"]

_MAX_PATH: Final = 107


class HostError(Exception):
    """The host does not allow what was configured: the text says what and which option names it."""


def group_number(group: str | None) -> int | None:
    """The number of a group given by name or number. Raises HostError."""
    if group is None:
        return None
    if group.isdigit():
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise HostError(f"ipc-group: there is no group {group!r}") from None


def private_directory(path: Path, group: int | None = None) -> None:
    """Make a directory (and its parents) that only we reach: 0700, or 2750 for a group. Raises HostError."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
        if status.st_uid != os.geteuid():
            raise HostError(f"{path} belongs to uid {status.st_uid}, not to this process")
        if group is not None and status.st_gid != group:
            os.chown(path, -1, group)
        mode = 0o700 if group is None else 0o2750
        if status.st_mode & 0o7777 != mode:
            path.chmod(mode)
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}") from error


def lock(path: Path, what: str) -> int:
    """Lock a file until the process ends or the descriptor returned is closed. Raises HostError when another
    has it.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
        os.close(descriptor)
        by = f" by process {owner}" if owner.isdigit() else ""
        raise HostError(f"{what} is in use{by}: one Messaging API at a time (lock file {path})") from None
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except OSError as error:
        os.close(descriptor)
        raise HostError(f"{path}: {error.strerror}") from error
    return descriptor


def bind(socket: zmq.Socket[bytes], endpoint: str, *, group: bool = False) -> str:
    """Bind under a umask that leaves no moment for others; returns the real endpoint. Raises HostError for
    tcp outside loopback, a path too long for a Unix socket, or an address that cannot be had."""
    path = socket_path(endpoint)
    if path is not None:  # absolute, because clients that are told it work in directories of their own
        endpoint = f"ipc://{path.absolute()}"
    scheme, _, rest = endpoint.partition("://")
    if scheme == "tcp":
        address = rest.rpartition(":")[0].strip("[]")
        try:
            loopback = address == "localhost" or ipaddress.ip_address(address).is_loopback
        except ValueError:
            loopback = False
        if not loopback:
            raise HostError(f"{endpoint}: tcp is possible on loopback only, since there is no authentication")
    elif scheme != "ipc":
        raise HostError(f"{endpoint}: only ipc:// and tcp:// on loopback are possible")
    elif len(os.fsencode(rest)) > _MAX_PATH:
        raise HostError(
            f"the socket path {rest} has {len(os.fsencode(rest))} bytes, at most {_MAX_PATH} are possible: "
            "shorten it with ipc-dir"
        )
    before = os.umask(0o007 if group else 0o077)
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        raise HostError(f"cannot bind {endpoint}: {error.strerror}") from error
    finally:
        os.umask(before)
    bound = socket.get(zmq.LAST_ENDPOINT)
    return bound.rstrip(b"\0").decode() if isinstance(bound, bytes) else str(bound)
