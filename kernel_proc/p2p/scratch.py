"""Memory that all connections of a host share for what they send and receive. None of it is held while a task
waits."""

from __future__ import annotations

from typing import Final

LARGEST: Final = 192 * 1024
"""Bytes that `lay_out` accepts: more than the largest message of the network."""
HEADER_ROOM: Final = 18
"""The longest header of a muxer's frame: two varints of mplex."""
_FRAMES: Final = 8
FRAME_ROOM: Final = 2 + 65_535
"""Room for the beginning of a noise message, which the last read left, before what is read."""
READ_SIZE: Final = 256 * 1024
"""Bytes read from a socket at once."""


class Scratch:
    """Buffers that are used again for every write and read.

    New ones of this size would come as untouched pages from the system each time, which costs more than
    encrypting what goes into them.
    """

    __slots__ = ("_most", "_sealed", "_source", "plain", "read_into", "received")

    def __init__(self) -> None:
        self.plain: Final = memoryview(bytearray(LARGEST + _FRAMES * HEADER_ROOM))
        self.received: Final = memoryview(bytearray(FRAME_ROOM + READ_SIZE))
        self.read_into: Final = (self.received[FRAME_ROOM:],)
        self._sealed = memoryview(bytearray(256 * 1024))
        self._source = b""
        self._most = 0

    def sealed(self, size: int) -> memoryview:
        """Return a buffer of at least `size` bytes for ciphertext; it is good until the next call."""
        if size > len(self._sealed):
            self._sealed = memoryview(bytearray(size))
        return self._sealed

    def lay_out(self, data: bytes, most: int) -> None:
        """Copy `data` into `plain`, in bodies of `most` bytes with HEADER_ROOM before each.

        A message goes to many peers, one after the other, as the same object: it is copied once.
        """
        if data is not self._source or most != self._most:
            self._source, self._most = data, most
            position = HEADER_ROOM
            for start in range(0, len(data), most):
                stop = position + min(most, len(data) - start)
                self.plain[position:stop] = memoryview(data)[start : start + most]
                position = stop + HEADER_ROOM
