"""Split a byte stream into length-prefixed RPCs without copying each one."""

from __future__ import annotations

__all__ = ["FrameCutter", "FrameTooLargeError", "FramingError"]


class FramingError(ValueError):
    """The stream is out of step and must be reset."""


class FrameTooLargeError(FramingError):
    """The length prefix exceeds the maximum frame size."""


class FrameCutter:
    """Turn chunks of a stream into frames.

    `feed(chunk)` returns a buffer and the (start, end) offsets of each complete frame body in it, so that the
    caller can decode in place. The tail of an incomplete frame is kept. Its chunks are collected and joined
    once, so that a peer that sends byte by byte does not cause quadratic copying; at most `max_frame` bytes
    plus one chunk are held.
    """

    __slots__ = ("_held", "_held_size", "_max_frame", "_needed")

    def __init__(self, max_frame: int) -> None:
        self._max_frame = max_frame
        self._held: list[bytes] = []
        self._held_size = 0
        self._needed = 1  # do not try to parse before this many bytes are available

    @property
    def held(self) -> int:
        """Bytes held of an incomplete frame."""
        return self._held_size

    def feed(self, chunk: bytes) -> tuple[bytes, list[tuple[int, int]]]:
        """Return the frames that `chunk` completes. Raise FramingError (or FrameTooLargeError); do not
        feed the cutter again after that."""
        if self._held:
            self._held.append(chunk)
            self._held_size += len(chunk)
            if self._held_size < self._needed:
                return b"", []
            buffer = b"".join(self._held)
            self._held.clear()
        else:
            buffer = chunk
        frames: list[tuple[int, int]] = []
        end = len(buffer)
        pos = 0
        self._needed = 1
        while pos < end:
            size = buffer[pos]
            body = pos + 1
            if size > 0x7F:
                shift = 7
                size &= 0x7F
                while body < end:
                    byte = buffer[body]
                    body += 1
                    size |= (byte & 0x7F) << shift
                    if byte < 0x80:
                        break
                    shift += 7
                    if shift > 28:
                        raise FramingError("frame length is not a valid varint")
                else:  # the length prefix itself is incomplete
                    self._needed = end - pos + 1
                    break
            if size > self._max_frame:
                raise FrameTooLargeError(f"frame of {size} bytes exceeds the maximum of {self._max_frame}")
            stop = body + size
            if stop > end:
                self._needed = stop - pos
                break
            frames.append((body, stop))
            pos = stop
        self._held_size = end - pos
        if pos < end:
            self._held.append(buffer[pos:] if pos else buffer)
        return buffer, frames
