"""Yamux 1.0.0 over a secure channel. Spec: github.com/hashicorp/yamux/blob/master/spec.md.

Unlike py-libp2p's, it enforces the receive window (an overrun ends the connection), returns credit
once per half window, wakes a writer on the update it waits for, delivers bodies as they arrive, and sends
header and body in one noise message.
"""

from __future__ import annotations

import struct
from typing import Final

from kernel_proc.p2p._errors import ProtocolViolation
from kernel_proc.p2p.api import StreamClosed
from kernel_proc.p2p.limits import HostLimits
from kernel_proc.p2p.muxer import SMALL_FRAME, Muxer
from kernel_proc.p2p.noise import MAX_PLAINTEXT, SecureChannel
from kernel_proc.p2p.output import Count
from kernel_proc.p2p.stream import MuxedStream

PROTOCOL: Final = "/yamux/1.0.0"
INITIAL_WINDOW: Final = 256 * 1024
MAX_WINDOW: Final = 2**31
HEADER_SIZE: Final = 12
DATA: Final = 0
WINDOW_UPDATE: Final = 1
PING: Final = 2
GO_AWAY: Final = 3
SYN: Final = 1
ACK: Final = 2
FIN: Final = 4
RST: Final = 8
MAX_STREAM_ID: Final = 2**32 - 1
SMALL_UPDATE: Final = 4096
"""Credit is returned per half window; updates smaller than this only cost us work."""

_HEADER: Final = struct.Struct("!BBHII")


def header(kind: int, flags: int, stream_id: int, length: int) -> bytes:
    """Encode a frame header, 12 bytes."""
    return _HEADER.pack(0, kind, flags, stream_id, length)


class Yamux(Muxer):
    """One yamux session."""

    max_body = MAX_PLAINTEXT - HEADER_SIZE

    def __init__(self, channel: SecureChannel, *, outbound: bool, limits: HostLimits, count: Count) -> None:
        super().__init__(channel, outbound=outbound, limits=limits, count=count)
        # Odd ids for the client side, even ones for the server (yamux spec, StreamID field).
        self._next_id = 1 if outbound else 2
        self._partial = b""
        self._body_left = 0
        self._body_stream: MuxedStream | None = None
        self._body_flags = 0
        self._ping_value = 0

    # -- incoming ----------------------------------------------------------

    def feed(self, piece: bytes) -> None:
        position, end = 0, len(piece)
        while position < end and self._ended is None:
            if self._body_left:
                size = min(self._body_left, end - position)
                stream = self._body_stream
                if stream is not None and stream.abort_reason is None:
                    stream.deliver(piece, position, position + size)
                    if not self.check_buffer(stream):
                        self._body_stream = None
                position += size
                self._body_left -= size
                if not self._body_left:
                    self._finish_data()
                continue
            if self._partial:
                need = HEADER_SIZE - len(self._partial)
                self._partial += piece[position : position + need]
                position += need
                if len(self._partial) < HEADER_SIZE:
                    return
                head, self._partial = self._partial, b""
                version, kind, flags, stream_id, length = _HEADER.unpack(head)
            elif end - position < HEADER_SIZE:
                self._partial = piece[position:]
                return
            else:
                version, kind, flags, stream_id, length = _HEADER.unpack_from(piece, position)
                position += HEADER_SIZE
            self._frame(version, kind, flags, stream_id, length)

    def _frame(self, version: int, kind: int, flags: int, stream_id: int, length: int) -> None:
        if version != 0:
            raise ProtocolViolation("yamux: unknown version")
        if kind == DATA:
            self._data(flags, stream_id, length)
        elif kind == WINDOW_UPDATE:
            self._window_update(flags, stream_id, length)
        elif kind == PING:
            self.charge()
            # A ping is echoed with its opaque value (yamux spec, Ping). Both kinds count as useless frames.
            if flags & SYN:
                self.enqueue_control(header(PING, ACK, 0, length))
        elif kind == GO_AWAY:
            # The peer will open no more streams and is about to close; EOF follows (yamux spec, Go Away).
            self.charge()
        else:
            raise ProtocolViolation("yamux: unknown frame type")

    def _stream_for(self, flags: int, stream_id: int) -> MuxedStream | None:
        # SYN rides on a stream's first frame, data or window update (yamux spec, Flag Field).
        if flags & SYN:
            return self._incoming(stream_id)
        return self._streams.get(stream_id)

    def _incoming(self, stream_id: int) -> MuxedStream | None:
        if stream_id == 0 or (stream_id & 1) == (1 if self.outbound else 0):
            raise ProtocolViolation("yamux: stream id of wrong parity")
        if stream_id in self._streams:
            raise ProtocolViolation("yamux: stream opened twice")
        # RST in place of ACK refuses a stream (yamux spec, Opening a stream).
        if not self.may_accept():
            self.enqueue_control(header(WINDOW_UPDATE, RST, stream_id, 0))
            return None
        # Every stream starts with 256 KiB (yamux spec, Flow Control). Our larger window is granted with the
        # ACK.
        window = self.limits.stream_window
        stream = MuxedStream(
            self, stream_id, outbound=False, send_window=INITIAL_WINDOW, receive_window=window
        )
        self.add_stream(stream_id, stream)
        self.enqueue_control(header(WINDOW_UPDATE, ACK, stream_id, window - INITIAL_WINDOW))
        self._accept(stream)
        return stream

    def _data(self, flags: int, stream_id: int, length: int) -> None:
        stream = self._stream_for(flags, stream_id)
        if length >= SMALL_FRAME:
            self.earn(length)
        elif not flags or (stream is None and not flags & SYN):
            self.charge()  # opening and closing streams is limited by their number
        if stream is not None and stream.input_ended:
            stream = None  # data after its FIN: skip
        if stream is not None:
            if length > stream.receive_window:
                self._count("window_overruns")
                # Without this check a peer could make us buffer without limit.
                raise ProtocolViolation("yamux: receive window overrun")
            stream.receive_window -= length
        elif length > self.limits.stream_window:
            # Data for a stream that no longer exists is skipped, but could never have been larger.
            raise ProtocolViolation("yamux: receive window overrun")
        self._body_left, self._body_stream, self._body_flags = length, stream, flags
        if not length:
            self._finish_data()

    def _finish_data(self) -> None:
        stream, flags = self._body_stream, self._body_flags
        self._body_stream = None
        if stream is not None and flags & (FIN | RST):
            self._end_flags(stream, flags)

    def _window_update(self, flags: int, stream_id: int, length: int) -> None:
        stream = self._stream_for(flags, stream_id)
        if length < SMALL_UPDATE and (not flags or (stream is None and not flags & SYN)):
            self.charge()
        if stream is None:
            return
        if length:
            stream.send_window += length
            if stream.send_window > MAX_WINDOW:
                raise ProtocolViolation("yamux: send window overflow")
            stream.wake_writer()
        if flags & (FIN | RST):
            self._end_flags(stream, flags)

    def _end_flags(self, stream: MuxedStream, flags: int) -> None:
        if flags & RST:
            self.remote_reset(stream)
        elif not stream.input_ended:
            self.remote_end(stream)

    # -- outgoing ----------------------------------------------------------

    def open_stream(self) -> MuxedStream:
        self.check_can_open()
        if self._next_id > MAX_STREAM_ID:
            self.end("stream ids exhausted")
            raise StreamClosed("stream ids exhausted")
        stream_id, self._next_id = self._next_id, self._next_id + 2
        window = self.limits.stream_window
        stream = MuxedStream(
            self, stream_id, outbound=True, send_window=INITIAL_WINDOW, receive_window=window
        )
        self.add_stream(stream_id, stream)
        # Data may follow at once: the opener need not wait for the ACK (yamux spec, Opening a stream).
        self.enqueue(header(WINDOW_UPDATE, SYN, stream_id, window - INITIAL_WINDOW))
        return stream

    def data_header(self, stream: MuxedStream, size: int) -> bytes:
        stream.send_window -= size
        # The bytes of `header(DATA, 0, …)`, which takes longer.
        return b"\0\0\0\0" + stream.stream_id.to_bytes(4, "big") + size.to_bytes(4, "big")

    def send_end(self, stream: MuxedStream) -> None:
        self.enqueue(header(WINDOW_UPDATE, FIN, stream.stream_id, 0))

    def send_reset(self, stream: MuxedStream) -> None:
        self.enqueue(header(WINDOW_UPDATE, RST, stream.stream_id, 0))

    def stream_consumed(self, stream: MuxedStream, count: int) -> None:
        stream.consumed += count
        # Half a window per update keeps the sender busy with few frames; after a FIN no more credit is
        # needed.
        if stream.consumed * 2 < self.limits.stream_window or stream.input_ended:
            return
        credit, stream.consumed = stream.consumed, 0
        stream.receive_window += credit
        if self._ended is None:
            self.enqueue(header(WINDOW_UPDATE, 0, stream.stream_id, credit))

    def send_ping(self) -> bool:
        self._ping_value = (self._ping_value + 1) & 0xFFFFFFFF
        self.enqueue(header(PING, SYN, 0, self._ping_value))
        return True

    def key_of(self, stream: MuxedStream) -> object:
        return stream.stream_id
