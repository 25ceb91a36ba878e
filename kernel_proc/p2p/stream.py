"""One stream of a muxed connection: bounded buffers, flow control, timeouts. Implements api.Stream."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

import trio

from kernel_proc.p2p._errors import ConnectionEnded
from kernel_proc.p2p.api import PeerIdText, StreamClosed

READ_SIZE: Final = 65536


class Carrier(Protocol):
    """What a stream needs from the muxer that carries it."""

    buffered: int
    """Unread bytes of all its streams."""

    @property
    def peer_id(self) -> PeerIdText:
        """The remote peer."""

    async def stream_write(self, stream: MuxedStream, data: bytes) -> None:
        """Send as flow control permits. Raise StreamClosed."""

    def stream_write_now(self, stream: MuxedStream, data: bytes) -> bool:
        """Send all of it at once without waiting, or nothing (False)."""

    def stream_consumed(self, stream: MuxedStream, count: int) -> None:
        """Handle that the application consumed `count` bytes: they may be credited."""

    def stream_close(self, stream: MuxedStream) -> None:
        """Close our direction."""

    def stream_reset(self, stream: MuxedStream, reason: str) -> None:
        """Reset both directions at once."""

    def stream_linger(self, stream: MuxedStream) -> None:
        """Restart the linger timeout of a half-closed stream."""


class MuxedStream:
    """A stream as seen by the rest of the kernel.

    The muxer's reader feeds it with `deliver`, `end_of_input` and `abort`, which never wait. At most one task
    reads at a time; writers take turns.
    """

    __slots__ = (
        "_chunks",
        "_failure",
        "_head",
        "_muxer",
        "_readable",
        "_taker",
        "_write_lock",
        "_writers",
        "_writing",
        "abort_reason",
        "buffered",
        "consumed",
        "discarding",
        "input_ended",
        "linger_until",
        "outbound",
        "output_ended",
        "protocol",
        "receive_window",
        "received",
        "send_window",
        "stream_id",
        "taken",
    )

    def __init__(
        self, muxer: Carrier, stream_id: int, *, outbound: bool, send_window: int, receive_window: int
    ) -> None:
        self._muxer = muxer
        self.stream_id = stream_id
        self.outbound = outbound
        self.protocol = ""
        self.send_window = send_window
        self.receive_window = receive_window
        self.consumed = 0
        """Bytes consumed by the application and not yet returned to the peer as credit."""
        self.buffered = 0
        self.received = 0
        """Total bytes received."""
        self.taken = 0
        """Total bytes consumed by the application."""
        self.input_ended = False
        self.output_ended = False
        self.abort_reason: str | None = None
        self.linger_until: float | None = None
        self.discarding = False
        """Discard further input without crediting it."""
        self._chunks: deque[bytes] = deque()
        self._head = 0
        self._taker: Callable[[bytes, int, int], bool] | None = None
        self._failure: Exception | None = None
        self._readable = trio.lowlevel.ParkingLot()
        self._writing = trio.lowlevel.ParkingLot()
        self._write_lock = trio.Lock()
        self._writers = 0
        """Tasks that hold the lock or wait for it."""

    @property
    def peer_id(self) -> PeerIdText:
        return self._muxer.peer_id

    def __repr__(self) -> str:
        return f"<MuxedStream {self.stream_id} {self.protocol or '?'} of {self.peer_id}>"

    # -- the muxer's side ----------------------------------------------------------

    def deliver(self, data: bytes, start: int, stop: int) -> None:
        """Accept bytes from the peer that were already counted against the window."""
        if self.discarding:
            return
        if self.linger_until is not None:
            self._muxer.stream_linger(self)  # half-closed but still in use
        size = stop - start
        self.received += size
        take = self._taker
        if take is not None:
            self.taken += size
            self._muxer.stream_consumed(self, size)
            try:
                if take(data, start, stop):
                    return
            except Exception as error:
                # It costs the stream, whose task gets it, not the connection that is being read.
                self._failure = error
            self._taker = None
        else:
            self._chunks.append(data if size == len(data) else data[start:stop])
            self.buffered += size
            self._muxer.buffered += size
        self._readable.unpark_all()

    def end_of_input(self) -> None:
        """Handle EOF from the peer."""
        self.input_ended = True
        self._readable.unpark_all()

    def abort(self, reason: str) -> None:
        """End the stream: drop buffered data, and raise StreamClosed in waiting tasks."""
        if self.abort_reason is not None:
            return
        self.abort_reason = reason
        self._muxer.buffered -= self.buffered
        self.buffered = 0
        self._chunks.clear()
        self._readable.unpark_all()
        self._writing.unpark_all()

    def wake_writer(self) -> None:
        """Wake writers: there is credit or queue space again."""
        self._writing.unpark_all()

    async def wait_writable(self) -> None:
        """Wait for `wake_writer` or `abort`."""
        await self._writing.park()

    # -- the application's side ----------------------------------------------------------

    async def read(self, max_bytes: int = READ_SIZE) -> bytes:
        """Read at least one byte, as soon as any is available; b"" at EOF. Raise StreamClosed."""
        waited = False
        while True:
            self._raise_if_aborted()
            if self._chunks:
                if not waited:
                    await trio.lowlevel.checkpoint()
                    self._raise_if_aborted()
                return self._take(max_bytes)
            if self.input_ended:
                if not waited:
                    await trio.lowlevel.checkpoint()
                return b""
            waited = True
            await self._readable.park()

    async def consume(self, take: Callable[[bytes, int, int], bool]) -> bool:
        """Pass all bytes to `take` as they arrive, as the part `start:stop` of a buffer, where the connection
        is read, which may be outside of any task: none is woken for them. Return True once `take` has
        returned False, and False at EOF. Raise StreamClosed, and what `take` raises."""
        while True:
            self._raise_if_aborted()
            if self._chunks:
                data = self._take(READ_SIZE)
                more = take(data, 0, len(data))
                await trio.lowlevel.checkpoint()
                if not more:
                    return True
                continue
            if self.input_ended:
                await trio.lowlevel.checkpoint()
                return False
            self._taker = take
            try:
                await self._readable.park()
                stopped = self._has_stopped()
            finally:
                self._taker = None
            if self._failure is not None:
                failure, self._failure = self._failure, None
                raise failure
            if stopped:
                return True

    def _raise_if_aborted(self) -> None:
        # A method, not two checks in `read`: mypyc takes what the first one found for true after an await.
        if self.abort_reason is not None:
            raise StreamClosed(self.abort_reason)

    def _has_stopped(self) -> bool:
        return self._taker is None  # a method for the same reason

    def _take(self, max_bytes: int) -> bytes:
        chunks = self._chunks
        head = chunks[0]
        if self._head == 0 and len(head) <= max_bytes and len(chunks) == 1:
            chunks.clear()
            data = head
        else:
            parts: list[bytes | memoryview] = []
            room = max_bytes
            while chunks and room > 0:
                head = chunks[0]
                available = len(head) - self._head
                if available <= room:
                    parts.append(memoryview(head)[self._head :] if self._head else head)
                    chunks.popleft()
                    self._head = 0
                    room -= available
                else:
                    parts.append(memoryview(head)[self._head : self._head + room])
                    self._head += room
                    room = 0
            data = b"".join(parts)
        self.taken += len(data)
        self.buffered -= len(data)
        self._muxer.buffered -= len(data)
        self._muxer.stream_consumed(self, len(data))
        return data

    async def read_exactly(self, count: int) -> bytes:
        """Read exactly `count` bytes, for negotiation and fixed-size messages. Raise ConnectionEnded at
        EOF, or StreamClosed."""
        parts: list[bytes] = []
        while count > 0:
            data = await self.read(count)
            if not data:
                raise ConnectionEnded("stream ended in the middle of a message")
            parts.append(data)
            count -= len(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def write(self, data: bytes) -> None:
        """Pass all of `data` to the connection.

        Raise StreamClosed, also if the peer grants no credit (or the connection accepts nothing) for the
        write timeout; the stream is then reset.
        """
        self._writers += 1
        try:
            try:
                self._write_lock.acquire_nowait()
            except trio.WouldBlock:
                await self._write_lock.acquire()
            try:
                await self._muxer.stream_write(self, data)
            finally:
                self._write_lock.release()
        finally:
            self._writers -= 1

    def write_now(self, data: bytes) -> bool:
        """Write all of `data` without waiting, or nothing: False while the connection is busy or the peer
        grants no credit. Errors show in the next call that may raise."""
        return not self._writers and self._muxer.stream_write_now(self, data)

    async def close(self) -> None:
        """Send EOF after the data written so far. Never raise (but is a checkpoint)."""
        self._muxer.stream_close(self)
        await trio.lowlevel.checkpoint()

    async def reset(self) -> None:
        """Reset both directions now. Never raise (but is a checkpoint)."""
        self._muxer.stream_reset(self, "reset by us")
        await trio.lowlevel.checkpoint()

    def drop(self, reason: str) -> None:
        """Reset the stream without a checkpoint."""
        self._muxer.stream_reset(self, reason)

    def finish(self) -> None:
        """Close after the handler is done: discard unread data, and give the peer time to close its side."""
        self._muxer.stream_close(self)
        self.discarding = True
        self._muxer.buffered -= self.buffered
        self.buffered = 0
        self._chunks.clear()
        self._muxer.stream_linger(self)
