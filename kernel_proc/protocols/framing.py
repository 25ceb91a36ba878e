"""One length-prefixed message at a time over a stream: what request and response protocols speak.

The relay does not read this way: see kernel_proc.relay.framing for its in-place cutter.
"""

from __future__ import annotations

from kernel_proc.p2p.api import Stream, StreamClosed
from kernel_proc.protocols.protobuf import encode_varint

__all__ = ["MessageReader", "StreamFrameError", "encode_frame", "encode_varint"]

MAX_LENGTH_BYTES = 5


class StreamFrameError(ValueError):
    """The peer sent something that is not a length-prefixed message of an allowed size."""


def encode_frame(body: bytes) -> bytes:
    """The message with its length in front."""
    return encode_varint(len(body)) + body


class MessageReader:
    """Reads messages of at most `limit` bytes; holds no more than one of them and one read of the stream."""

    def __init__(self, stream: Stream, limit: int) -> None:
        self._stream = stream
        self._limit = limit
        self._buffer = bytearray()

    async def started(self) -> bool:
        """Wait for the first byte of a message; False when the stream ended instead. Raises StreamClosed."""
        return bool(self._buffer) or await self._fill()

    async def read(self) -> bytes | None:
        """The next message; None when the stream ended between two. Raises FrameError, StreamClosed."""
        length, size = 0, 0
        while True:
            if len(self._buffer) == size and not await self._fill():
                if size:
                    raise StreamClosed("ended in mid-message")
                return None
            byte = self._buffer[size]
            length |= (byte & 0x7F) << (7 * size)
            size += 1
            if byte < 0x80:
                break
            if size == MAX_LENGTH_BYTES:
                raise StreamFrameError("over-long length")
        if length > self._limit:
            raise StreamFrameError(f"message of {length} bytes, at most {self._limit} are allowed")
        while len(self._buffer) < size + length:
            if not await self._fill():
                raise StreamClosed("ended in mid-message")
        with memoryview(self._buffer) as view:  # a slice of the buffer itself would be a copy more
            body = bytes(view[size : size + length])
        del self._buffer[: size + length]
        return body

    async def _fill(self) -> bool:
        data = await self._stream.read()
        self._buffer += data
        return bool(data)
