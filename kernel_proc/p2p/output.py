"""The writing half of a muxed connection: a bounded send queue, direct writes while it is empty, and a writer
task while there is something to write.

Queued frames are joined into as few noise messages and socket writes as possible; a cancelled task cannot
leave a partial frame on the wire.
"""

from __future__ import annotations

import abc
import time
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from kernel_proc.p2p._errors import ProtocolViolation
from kernel_proc.p2p.api import StreamClosed
from kernel_proc.p2p.limits import HostLimits
from kernel_proc.p2p.noise import SecureChannel
from kernel_proc.p2p.scratch import LARGEST
from kernel_proc.p2p.stream import MuxedStream

SEND_BATCH: Final = 128 * 1024
"""Bytes sealed and written to the socket at once; the write timeout applies to this amount."""

DIRECT_PAUSE: Final = 0.001
"""Seconds between two direct writes on a connection. A burst is written directly once, and the rest of it in
as few socket writes as possible."""
DIRECT_LARGE: Final = 32 * 1024
"""From this size on, joining with others saves nothing: a direct write needs no pause before it."""

SMALL_WRITE: Final = 4 * 1024
"""Largest write that is not laid out in shared memory."""

TURN: Final = 256 * 1024
"""Bytes written directly before other tasks have a turn; a small write counts as a sixteenth of it."""

Count = Callable[[str], None]
"""Increments a named counter of the host."""


class MuxerOutput(abc.ABC):
    """What a muxer sends. Its reader, its end and its streams are in `Muxer`."""

    def __init__(self, channel: SecureChannel, limits: HostLimits, count: Count) -> None:
        self.limits = limits
        self._channel = channel
        self._count = count
        self._ended: str | None = None
        self._reading = False
        """Whether a piece is being read, after which the reader writes what that has queued."""
        self._nursery: trio.Nursery | None = None
        """Of the writer, while the connection runs."""
        self._writer_runs = False
        self._queue: list[bytes | memoryview] = []
        self._queued = 0
        self._control_queued = 0
        self._waiting_for_room: set[MuxedStream] = set()
        self._sending_since: float | None = None
        self._unsent = b""
        """Sealed bytes that a direct write left over. Noise numbers its messages: they go out first."""
        self._unsent_size = 0
        """What they count for in `_queued`."""
        self._direct_at = float("-inf")
        self._turn_used = 0

    # -- implemented by the muxer -----------------------------------------

    max_body: int
    """Largest body of an outgoing data frame."""

    @abc.abstractmethod
    def data_header(self, stream: MuxedStream, size: int) -> bytes:
        """Return the header of a data frame and spend the stream's credit for it."""

    def send_body(self, stream: MuxedStream, body: bytes | memoryview) -> None:
        """Queue a data frame; `body` fits max_body and the send window."""
        self.enqueue(self.data_header(stream, len(body)), body)

    @abc.abstractmethod
    def stream_reset(self, stream: MuxedStream, reason: str) -> None:
        """Reset the stream, and end it with `reason`."""

    @abc.abstractmethod
    async def _guard(self, loop: Callable[[], Awaitable[None]]) -> None:
        """Run the writer; its failure ends the connection."""

    # -- the queue ----------------------------------------------------------

    def enqueue(self, *parts: bytes | memoryview) -> None:
        """Queue a data frame for the writer."""
        self._queue.extend(parts)
        for part in parts:
            self._queued += len(part)
        if not self._reading:
            self._wake_writer()

    def enqueue_control(self, frame: bytes) -> None:
        """Queue a response. A peer that provokes responses without reading them is disconnected."""
        self._control_queued += len(frame)
        if self._control_queued > self.limits.control_buffer:
            raise ProtocolViolation("peer does not read our responses")
        self.enqueue(frame)

    def discard(self) -> None:
        """Drop what has not been sent."""
        self._waiting_for_room.clear()
        self._queue.clear()
        self._unsent = b""

    # -- the writer ----------------------------------------------------------

    def _wake_writer(self) -> None:
        """Start the writer unless it runs: an idle connection has no task for it."""
        if not self._writer_runs and self._nursery is not None and self._ended is None:
            self._writer_runs = True
            self._nursery.start_soon(self._guard, self._write_loop)

    def _write_queued(self) -> None:
        """Write at once what the reader has queued: credit must not wait for the writer's turn. What the
        socket does not take, and an error, are left to the writer."""
        if not self._writer_runs and not self._unsent and self._channel.can_send_now:
            batch, size = self._next_batch()
            self._unsent, self._unsent_size = self._channel.send_some(batch), size
            if not self._unsent:
                self._written(size)
        if self._unsent or self._queue:
            self._wake_writer()

    def _written(self, size: int) -> None:
        self._queued -= size
        if self._waiting_for_room and self._queued < self.limits.send_buffer:
            for stream in self._waiting_for_room:
                stream.wake_writer()
            self._waiting_for_room.clear()

    async def _write_loop(self) -> None:
        while self._unsent or self._queue:
            if self._unsent:
                rest, size = self._unsent, self._unsent_size
                self._unsent = b""
            else:
                batch, size = self._next_batch()
                rest = self._channel.send_some(batch)
            if rest:
                self._sending_since = trio.current_time()
                # One task waits for the transport, with whole frames: a cancelled application task cannot
                # tear a frame apart.
                await self._channel.stream.send_all(rest)
                self._sending_since = None
            self._written(size)
        self._writer_runs = False

    def _next_batch(self) -> tuple[list[bytes | memoryview], int]:
        queue = self._queue
        if self._queued <= SEND_BATCH:
            self._queue = []
            self._control_queued = 0
            return queue, self._queued
        size = 0
        for index, part in enumerate(queue):  # noqa: B007 - the index outlives the loop
            size += len(part)
            if size >= SEND_BATCH:
                break
        batch = queue[: index + 1]
        del queue[: index + 1]
        if not queue:
            self._control_queued = 0
        return batch, size

    # -- streams ----------------------------------------------------------

    async def stream_write(self, stream: MuxedStream, data: bytes) -> None:
        """Split `data` into frames, as flow control and queue space permit."""
        position, total, queued = 0, len(data), not data
        while True:
            if stream.abort_reason is not None:
                raise StreamClosed(stream.abort_reason)
            if stream.output_ended:
                raise StreamClosed("closed for writing")
            if position == total:
                break
            if size := self._write_directly(stream, data, position):
                position += size
                continue
            size = min(stream.send_window, total - position, self.max_body)
            if size > 0 and self._queued < self.limits.send_buffer:
                whole = size == total
                self.send_body(stream, data if whole else memoryview(data)[position : position + size])
                position += size
                queued = True
                continue
            await self._wait_to_write(stream, for_room=size > 0)
        # A turn of the loop costs more than a write of some KiB: give one up after several writes.
        self._turn_used += max(total, TURN // 16)
        if self._turn_used < TURN and not queued:
            await trio.lowlevel.checkpoint_if_cancelled()
            return
        self._turn_used = 0
        await trio.lowlevel.checkpoint()

    def stream_write_now(self, stream: MuxedStream, data: bytes) -> bool:
        """Write `data` to the socket in the caller's task, if nothing else is under way and it is within the
        stream's credit. What the socket does not take, and an error, are left to the writer task."""
        now = time.perf_counter()
        if len(data) < DIRECT_LARGE and now - self._direct_at < DIRECT_PAUSE:
            return False
        if len(data) > stream.send_window or not self._write_directly(stream, data, 0):
            return False
        self._direct_at = now
        return True

    def _write_directly(self, stream: MuxedStream, data: bytes, start: int) -> int:
        """Write what the credit allows of `data[start:]`. Return how many bytes: 0 while the connection is
        busy."""
        size = min(stream.send_window, len(data) - start)
        if (
            self._queue
            or self._unsent
            or self._sending_since is not None
            or self._ended is not None
            or stream.abort_reason is not None
            or stream.output_ended
            or size <= 0
            or len(data) > LARGEST
            or not self._channel.can_send_now
        ):
            return 0
        if size == len(data) <= SMALL_WRITE:
            rest = self._channel.send_small(self.data_header(stream, size), data)
        else:
            rest = self._send_frames(stream, data, start, start + size)
        if rest:
            self._unsent, self._unsent_size = rest, size
            self._queued += size
            self._wake_writer()
        return size

    def _send_frames(self, stream: MuxedStream, data: bytes, start: int, stop: int) -> bytes:
        most = self.max_body
        frames = []
        while start < stop:
            end = min(stop, start - start % most + most)
            frames.append((self.data_header(stream, end - start), start, end))
            start = end
        return self._channel.send_data(data, frames, most)

    async def _wait_to_write(self, stream: MuxedStream, *, for_room: bool) -> None:
        if for_room:
            self._waiting_for_room.add(stream)
        with trio.move_on_after(self.limits.write_timeout) as scope:
            await stream.wait_writable()
        if not scope.cancelled_caught:
            return
        self._waiting_for_room.discard(stream)
        self._count("write_timeouts")
        self.stream_reset(stream, "write timeout")
