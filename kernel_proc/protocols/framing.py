"""Length-prefixed messages over a stream, one at a time, for request/response protocols.

The relay uses the in-place cutter of kernel_proc.relay.framing instead.
"""

from __future__ import annotations

from kernel_proc.p2p.api import Stream, StreamClosed
from kernel_proc.p2p.varint import encode as encode_varint

MAX_LENGTH_BYTES = 5


class StreamFrameError(ValueError):
    """The peer sent something other than a length-prefixed message of a permitted size."""


def encode_frame(body: bytes) -> bytes:
    """Prepend the length to a message."""
    return encode_varint(len(body)) + body


class MessageReader:
    """Read messages of at most `limit` bytes. Buffers at most one message plus one read of the stream."""

    def __init__(self, stream: Stream, limit: int) -> None:
        self._stream = stream
        self._limit = limit
        self._buffer = bytearray()

    async def started(self) -> bool:
        """Wait for the first byte of a message. Return False at the end of the stream. Raise StreamClosed."""
        return bool(self._buffer) or await self._fill()

    async def read(self) -> bytes | None:
        """Return the next message, or None if the stream ended between messages. Raise StreamFrameError or
        StreamClosed."""
        length, size = 0, 0
        while True:
            if len(self._buffer) == size and not await self._fill():
                if size:
                    raise StreamClosed("stream ended in the middle of a message")
                return None
            byte = self._buffer[size]
            length |= (byte & 0x7F) << (7 * size)
            size += 1
            if byte < 0x80:
                break
            if size == MAX_LENGTH_BYTES:
                raise StreamFrameError("length prefix too long")
        if length > self._limit:
            raise StreamFrameError(f"message of {length} bytes exceeds the maximum of {self._limit}")
        while len(self._buffer) < size + length:
            if not await self._fill():
                raise StreamClosed("stream ended in the middle of a message")
        with memoryview(self._buffer) as view:  # slicing the bytearray itself would copy twice
            body = bytes(view[size : size + length])
        del self._buffer[: size + length]
        return body

    def take_rest(self) -> bytes:
        """Return what was read beyond the last message."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest

    async def _fill(self) -> bool:
        data = await self._stream.read()
        self._buffer += data
        return bool(data)
