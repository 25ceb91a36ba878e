"""Bound the bytes that libzmq queues for a peer that does not read.

libzmq's high-water mark counts messages, large and small alike: 256 messages of 150 KiB are 38 MiB per
peer. libzmq does not report how much has been written, but the system does: libzmq writes as long as the
system accepts, so while the connection is writable, libzmq holds next to nothing. That is what libzmq itself
waits for, and when it holds differs between systems and kinds of socket (a Unix socket on Linux: while a
quarter of its send buffer is in use at most). It is queried once per `WINDOW` bytes.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from typing import Final

WINDOW: Final = 4 << 20
"""Bytes sent to one peer before checking whether they have been written."""
_MOMENT: Final = 0.001


def is_flowing(descriptor: int) -> bool:
    """Return whether the system takes more for this connection now."""
    poller = select.poll()
    poller.register(descriptor, select.POLLOUT)
    return bool(poller.poll(0))  # also if it was closed meanwhile: the next send reports it


class Windows:
    """Bytes sent to libzmq per peer since the last check. Pure but for `flowing`."""

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
        """Bound what is sent to the peer of this connection."""
        self._watched[key] = descriptor, window
        self._given[key] = 0

    def forget(self, key: bytes) -> None:
        """Drop a closed connection."""
        self._watched.pop(key, None)
        self._full_since.pop(key, None)
        self._given.pop(key, None)

    def take(self, key: bytes, size: int) -> bool:
        """Count `size` bytes to be sent. Return False if the peer must read first."""
        given = self._given.get(key)
        if given is None:
            return True
        if given >= self._watched[key][1]:
            self._full_since.setdefault(key, self._clock())
            return False
        self._given[key] += size
        return True

    def reopen(self, key: bytes) -> bool:
        """Check again. Return True if more may be sent to the peer."""
        watched = self._watched.get(key)
        if watched is not None and self._given[key] >= watched[1]:
            since = self._full_since.setdefault(key, self._clock())
            if self._clock() - since < _MOMENT or not self._flowing(watched[0]):
                return False
            del self._full_since[key]
            self._given[key] = 0
        return True
