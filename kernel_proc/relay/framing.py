"""Cutting length-prefixed RPCs out of a byte stream without copying each one."""

from __future__ import annotations

__all__ = ["FrameCutter", "FrameTooLargeError", "FramingError"]


class FramingError(ValueError):
    """The stream cannot be followed any further: it has to be reset."""


class FrameTooLargeError(FramingError):
    """A frame announces more bytes than this node takes."""


class FrameCutter:
    """Turns chunks of a stream into frames.

    `feed(chunk)` returns a buffer and the (start, end) of each complete frame body in it; the caller reads in
    place. What is left of an unfinished frame is kept. Chunks of a frame that is still growing are only
    collected, and joined once, so that a peer that sends byte by byte costs no quadratic copying; at most
    `max_frame` bytes and one chunk are held.
    """

    __slots__ = ("_held", "_held_size", "_max_frame", "_needed")

    def __init__(self, max_frame: int) -> None:
        self._max_frame = max_frame
        self._held: list[bytes] = []
        self._held_size = 0
        self._needed = 1  # bytes that must be there before another attempt is worth making

    @property
    def held(self) -> int:
        """Bytes of an unfinished frame."""
        return self._held_size

    def feed(self, chunk: bytes) -> tuple[bytes, list[tuple[int, int]]]:
        """Raises FrameTooLargeError or FramingError; the cutter is of no use afterwards."""
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
                        raise FramingError("frame length is not a varint of a sane size")
                else:  # the length itself is not complete yet
                    self._needed = end - pos + 1
                    break
            if size > self._max_frame:
                raise FrameTooLargeError(f"frame of {size} bytes, at most {self._max_frame} are taken")
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
