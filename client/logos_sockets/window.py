"""Bound the bytes that libzmq holds for a peer that does not read.

libzmq's high-water mark counts messages, small and large alike: 256 messages of 150 KiB are 38 MiB for each
peer. How much of it has gone out libzmq does not say, but the system does: libzmq writes to a connection as
long as the system takes it, so while the system's own buffer for the connection (SIOCOUTQ) is not nearly
full, libzmq holds next to nothing. It is asked once for every `WINDOW` bytes, and not before libzmq's thread
has had a moment to pass them on.
"""

from __future__ import annotations

import fcntl
import os
import socket
import sys
import termios
import time
from collections.abc import Callable
from typing import Final

__all__ = ["WINDOW", "Windows", "is_flowing"]

WINDOW: Final = 4 << 20
"""Bytes given to libzmq for one peer before it is asked whether they have gone out."""
_DEFAULT_BUFFER: Final = 212_992
_MOMENT: Final = 0.001


def is_flowing(descriptor: int) -> bool:
    """Whether the system has room for at least half of its buffer for this connection. Linux and BSD."""
    room = bytearray(4)
    try:
        fcntl.ioctl(descriptor, termios.TIOCOUTQ, room)
    except OSError:
        return True  # closed meanwhile: the next send says so
    return int.from_bytes(room, sys.byteorder) < _send_buffer(descriptor) // 2


def _send_buffer(descriptor: int) -> int:
    try:
        number = os.dup(descriptor)
    except OSError:
        return _DEFAULT_BUFFER
    try:
        copy = socket.socket(fileno=number)
    except OSError:
        os.close(number)
        return _DEFAULT_BUFFER
    with copy:
        return copy.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)


class Windows:
    """What was given to libzmq for each peer since the system was asked last. Pure but for `flowing`."""

    def __init__(
        self,
        flowing: Callable[[int], bool] = is_flowing,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._flowing = flowing
        self._clock = clock
        self._full_since: dict[bytes, float] = {}
        self._watched: dict[bytes, tuple[int, int]] = {}
        self._given: dict[bytes, int] = {}

    def watch(self, key: bytes, descriptor: int, window: int = WINDOW) -> None:
        """Bound what is given for the peer at the other end of this connection."""
        self._watched[key] = descriptor, window
        self._given[key] = 0

    def forget(self, key: bytes) -> None:
        """The connection is gone."""
        self._watched.pop(key, None)
        self._full_since.pop(key, None)
        self._given.pop(key, None)

    def take(self, key: bytes, size: int) -> bool:
        """Count `size` bytes that are to be given; False if the peer has to read first."""
        given = self._given.get(key)
        if given is None:
            return True
        if given >= self._watched[key][1]:
            self._full_since.setdefault(key, self._clock())
            return False
        self._given[key] += size
        return True

    def reopen(self, key: bytes) -> bool:
        """Ask the system again; True if the peer may be given more."""
        watched = self._watched.get(key)
        if watched is not None and self._given[key] >= watched[1]:
            since = self._full_since.setdefault(key, self._clock())
            if self._clock() - since < _MOMENT or not self._flowing(watched[0]):
                return False
            del self._full_since[key]
            self._given[key] = 0
        return True
