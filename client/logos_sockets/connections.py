"""The connections that libzmq has accepted for one socket, by descriptor.

Shutting down a duplicate of such a descriptor closes that one connection; libzmq itself has no call for it.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import termios
from collections import Counter
from dataclasses import dataclass
from typing import Final

_UCRED: Final = struct.Struct("3i")


@dataclass(frozen=True, slots=True)
class AcceptedConnection:
    """A connection as the system identifies it.

    `inode` distinguishes a reused descriptor from the original.
    """

    listener: str
    pid: int
    uid: int
    inode: int


class AcceptedConnections:
    """Those that were accepted and not lost."""

    def __init__(self) -> None:
        self._by_descriptor: dict[int, AcceptedConnection] = {}
        self._by_process: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self._by_descriptor)

    def add(self, descriptor: int, listener: str) -> AcceptedConnection:
        """Take a connection that was accepted at a listener's endpoint."""
        connection = _look_at(descriptor, listener)
        self._by_descriptor[descriptor] = connection
        self._by_process[connection.pid] += 1
        return connection

    def remove(self, descriptor: int) -> AcceptedConnection | None:
        """Drop a connection that was lost. Return it, None if it is not known."""
        connection = self._by_descriptor.pop(descriptor, None)
        if connection is not None:
            self._by_process[connection.pid] -= 1
            if self._by_process[connection.pid] <= 0:
                del self._by_process[connection.pid]
        return connection

    def of_process(self, pid: int) -> int:
        """Return how many connections a process has."""
        return self._by_process[pid]

    def largest(self) -> tuple[int, int] | None:
        """Return the process with the most connections, and their number; None without any."""
        found = self._by_process.most_common(1)
        return found[0] if found else None

    def descriptors(self) -> list[int]:
        return list(self._by_descriptor)

    def inode(self, descriptor: int) -> int:
        """Return what identifies the connection that has this descriptor now; 0 if none has."""
        connection = self._by_descriptor.get(descriptor)
        return connection.inode if connection is not None else 0

    def unread(self) -> list[int]:
        """Return the connections with unread input in the kernel's buffer, by descriptor."""
        found: list[int] = []
        room = bytearray(4)
        for descriptor in self._by_descriptor:
            try:
                fcntl.ioctl(descriptor, termios.FIONREAD, room)
            except OSError:
                continue  # libzmq has just closed it
            if any(room):
                found.append(descriptor)
        return found

    def cut(self, descriptor: int) -> str | None:
        """Close one connection. Return its peer, or None if it is already gone.

        libzmq drops the unfinished message of this connection.
        """
        connection = self._by_descriptor.get(descriptor)
        copy = _copy(descriptor, connection.listener) if connection is not None else None
        if copy is None or connection is None:
            return None
        with copy:
            if os.fstat(copy.fileno()).st_ino != connection.inode:
                return None  # closed by libzmq meanwhile, and the number reused
            try:
                copy.shutdown(socket.SHUT_RDWR)
            except OSError:
                return None
        return f"process {connection.pid} of uid {connection.uid}" if connection.pid else "a client"


def _copy(descriptor: int, listener: str) -> socket.socket | None:
    """Duplicate a connection's descriptor, which libzmq's thread may close at any time.

    Return None if the number means something else by now.
    """
    try:
        number = os.dup(descriptor)
    except OSError:
        return None
    try:
        copy = socket.socket(fileno=number)
    except OSError:
        os.close(number)
        return None
    try:
        name = copy.getsockname()
    except OSError:
        name = None
    # A Unix connection keeps the name that its listener was bound to (unix(7)).
    if isinstance(name, str):
        ours = f"ipc://{name}" == listener
    else:
        ours = bool(name) and f":{name[1]}" == listener[listener.rindex(":") :]
    if not ours:
        copy.close()
        return None
    return copy


def _look_at(descriptor: int, listener: str) -> AcceptedConnection:
    copy = _copy(descriptor, listener)
    if copy is None:
        return AcceptedConnection(listener, 0, -1, 0)
    with copy:
        inode = os.fstat(copy.fileno()).st_ino
        if not listener.startswith("ipc://") or not hasattr(socket, "SO_PEERCRED"):
            return AcceptedConnection(listener, 0, -1, inode)
        pid, uid, _ = _UCRED.unpack(copy.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        return AcceptedConnection(listener, pid, uid, inode)
