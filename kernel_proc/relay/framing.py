"""Split a byte stream into length-prefixed RPCs without copying each one."""

from __future__ import annotations


class FramingError(ValueError):
    """The stream is out of step and must be reset."""


class FrameTooLargeError(FramingError):
    """The length prefix exceeds the maximum frame size."""


class FrameCutter:
    """Turn chunks of a stream into frames.

    `feed` returns where the body of each complete frame is, as (buffer, start, stop), so that the caller can
    decode in place. The pieces of an incomplete frame are kept and joined once, when the frame is complete:
    a peer that sends byte by byte does not cause quadratic copying. At most `max_frame` bytes are held, in
    buffers of at most twice their size.
    """

    __slots__ = ("_held", "_held_size", "_max_frame", "_prefix_size", "_whole_size")

    def __init__(self, max_frame: int) -> None:
        self._max_frame = max_frame
        self._held: list[bytes | memoryview] = []
        self._held_size = 0
        self._prefix_size = 0
        """Size of the length prefix of the frame held; 0 while the prefix itself is incomplete."""
        self._whole_size = 0
        """Size of the frame held, with its prefix."""

    @property
    def held(self) -> int:
        """Bytes held of an incomplete frame."""
        return self._held_size

    def feed(self, chunk: bytes, start: int = 0, stop: int | None = None) -> list[tuple[bytes, int, int]]:
        """Return the frames that `chunk[start:stop]` completes. Raise FramingError (or FrameTooLargeError);
        do not feed the cutter again after that."""
        end = len(chunk) if stop is None else stop
        pos = start
        frames: list[tuple[bytes, int, int]] = []
        if self._held:
            if self._prefix_size:
                missing = self._whole_size - self._held_size
                if end - pos < missing:
                    self._hold(chunk, pos, end)
                    return frames
                self._hold(chunk, pos, pos + missing)
                pos += missing
                frames.append((b"".join(self._held), self._prefix_size, self._whole_size))
            else:
                chunk = b"".join(self._held) + chunk[pos:end]
                pos, end = 0, len(chunk)
            self._held = []
            self._held_size = self._prefix_size = 0
        while pos < end:
            size = chunk[pos]
            body = pos + 1
            if size > 0x7F:
                shift = 7
                size &= 0x7F
                while body < end:
                    byte = chunk[body]
                    body += 1
                    size |= (byte & 0x7F) << shift
                    if byte < 0x80:
                        break
                    shift += 7
                    if shift > 28:
                        raise FramingError("frame length is not a valid varint")
                else:  # the length prefix itself is incomplete
                    self._hold(chunk, pos, end)
                    break
            if size > self._max_frame:
                raise FrameTooLargeError(f"frame of {size} bytes exceeds the maximum of {self._max_frame}")
            after = body + size
            if after > end:
                self._prefix_size = body - pos
                self._whole_size = after - pos
                self._hold(chunk, pos, end)
                break
            frames.append((chunk, body, after))
            pos = after
        return frames

    def _hold(self, chunk: bytes, start: int, end: int) -> None:
        size = end - start
        if size == 0:
            return
        self._held_size += size
        # A view keeps the whole chunk in memory, which a peer could make much larger than what we need of it.
        if size * 2 >= len(chunk):
            self._held.append(memoryview(chunk)[start:end])
        else:
            self._held.append(chunk[start:end])
