"""What goes out of a ZeroMQ socket: at once, in one run for each turn of the loop, or from the backlogs.

Sending is one direct call per frame: `send_multipart` costs three times that.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import zmq

from logos_sockets.backlog import Backlogs
from logos_sockets.loop import Handle, Loop
from logos_sockets.window import Windows

_NOBLOCK: Final = int(zmq.NOBLOCK)
_NOBLOCK_MORE: Final = int(zmq.NOBLOCK | zmq.SNDMORE)

_FLUSH_EVERY_S: Final = 0.02
_FLUSH_FIRST_S: Final = 0.001
#: Bounds of what `send_soon` holds back: messages, and bytes of a frame that ends the batch.
_RUN_MESSAGES: Final = 64
_RUN_FRAME: Final = 16 << 10
#: Approximate bytes of an event besides its payload.
_OVERHEAD: Final = 256


@dataclass(slots=True)
class SocketCounters:
    """Counters of a socket since it was opened.

    `dropped` and `unroutable` are messages for which `send` returned False.
    """

    received: int = 0
    sent: int = 0
    queued: int = 0
    dropped: int = 0
    dropped_bytes: int = 0
    unroutable: int = 0


class Edge(Protocol):
    """The reading side of the socket: any call on the socket may consume its descriptor's edge."""

    def before_send(self) -> bool:
        """Return whether `after_send` must follow, since nothing else looks for what has come."""

    def after_send(self) -> None:
        """Look for what has come."""

    def read_on(self) -> None:
        """Offer the backlogs (`flush`), and read."""


class Outgoing:
    """Sends without blocking, in order, and keeps what the socket cannot take now.

    See `DrainSocket`, which it is a part of, for `on_unroutable` and `on_writable`.
    """

    def __init__(
        self,
        loop: Loop,
        socket: zmq.Socket[bytes],
        edge: Edge,
        backlogs: Backlogs,
        counters: SocketCounters,
        *,
        on_unroutable: Callable[[bytes], None] | None,
        on_writable: Callable[[bytes], None] | None,
    ) -> None:
        self.windows = Windows()
        self.keyed = int(socket.getsockopt(zmq.TYPE)) == zmq.ROUTER
        """Whether the first frame of a message is its destination."""
        self._loop = loop
        self._edge = edge
        self._backlogs = backlogs
        self._counters = counters
        self._on_unroutable = on_unroutable
        self._on_writable = on_writable
        self._refused: set[bytes] = set()
        self._run: list[Sequence[bytes]] = []
        # The backend's method, bound: the layer above it in pyzmq only adds keyword arguments we do not use.
        self._send_frame: Callable[..., None] = functools.partial(zmq.backend.Socket.send, socket)
        self._flush_timer: Handle | None = None
        self._flush_delay = _FLUSH_FIRST_S
        self._closed = False

    @property
    def waiting(self) -> bool:
        """Whether messages, or who was refused, wait for a peer."""
        return bool(self._backlogs or self._refused)

    def send(self, frames: Sequence[bytes], *, stream: bool = False) -> bool:
        """See `DrainSocket`. `stream`: it is one of `send_soon`."""
        if self._closed:
            return False
        if self._run:
            self.send_run()
        return self._send_now(frames, stream=stream)

    def _send_now(self, frames: Sequence[bytes], *, promised: bool = False, stream: bool = False) -> bool:
        key = frames[0] if self.keyed else b""
        if key in self._backlogs:
            return self._keep(key, frames, promised=promised, stream=stream)
        alone = self._edge.before_send()
        try:
            sent = self._try_send(frames)
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            self._unroutable(key, 1)
            return False
        finally:
            if alone:
                self._edge.after_send()
        return True if sent else self._keep(key, frames, promised=promised, stream=stream)

    def send_soon(self, frames: Sequence[bytes]) -> bool:
        """See `DrainSocket`."""
        key = frames[0] if self.keyed else b""
        if self._closed or key in self._backlogs:
            return self.send(frames, stream=self.keyed)
        if not self.windows.take(key, len(frames[-1]) + _OVERHEAD):
            self._note_refused(key)
            return False
        run = self._run
        run.append(frames)
        if len(run) == 1:
            self._loop.call_soon(self.send_run)
        if len(run) >= _RUN_MESSAGES or len(frames[-1]) >= _RUN_FRAME:
            self.send_run()
        return True

    def send_run(self) -> None:
        """Send what `send_soon` has held back."""
        run, self._run = self._run, []
        for frames in run:
            if self._closed:
                return  # by what we called
            self._send_now(frames, promised=True)

    def _try_send(self, frames: Sequence[bytes]) -> bool:
        """Try once. Return False if the socket cannot take it now; nothing of the message went out then."""
        send = self._send_frame
        last = len(frames) - 1
        at = 0
        try:
            while at < last:
                send(frames[at], _NOBLOCK_MORE)
                at += 1
            send(frames[at], _NOBLOCK)
        except zmq.Again:
            # Refused halfway: the connection is gone, and libzmq rolled the first frames back. It now drops
            # frames up to the end of this message, so they must still be offered: otherwise the next message
            # would lose its head.
            if 0 < at < last:
                for position in range(at + 1, last + 1):
                    send(frames[position], _NOBLOCK if position == last else _NOBLOCK_MORE)
            return False
        self._counters.sent += 1
        return True

    def _keep(self, key: bytes, frames: Sequence[bytes], *, promised: bool, stream: bool) -> bool:
        if not self._backlogs.add(key, frames, promised=promised, stream=stream):
            self._counters.dropped += 1
            self._counters.dropped_bytes += sum(map(len, frames))
            self._note_refused(key)
            return False
        self._counters.queued += 1
        self._flush_later()
        return True

    def _note_refused(self, key: bytes) -> None:
        if self._on_writable is not None:
            self._refused.add(key)
            self._flush_later()

    def _flush_later(self) -> None:
        # A peer that reads again wakes us through the descriptor, but one call may consume the wake-ups of
        # several peers of a ROUTER without saying which; and a window opens without any signal. So while
        # messages are queued, a timer polls: immediately at first, then with growing delay.
        if self._flush_timer is None:
            self._flush_timer = self._loop.call_later(self._flush_delay, self._flush_timed)

    def _flush_timed(self) -> None:
        self._flush_timer = None
        before = self._counters.sent
        self._edge.read_on()
        if self.waiting:
            moved = self._counters.sent != before
            self._flush_delay = _FLUSH_FIRST_S if moved else min(2 * self._flush_delay, _FLUSH_EVERY_S)
            self._flush_later()
        else:
            self._flush_delay = _FLUSH_FIRST_S

    def flush(self) -> None:
        """Offer each destination its queued messages.

        The sends may consume an edge: the caller drains afterwards.
        """
        backlogs = self._backlogs
        for key in backlogs:
            if self._closed:
                return  # by what we called
            try:
                while (frames := backlogs.first(key)) is not None and self._try_send(frames):
                    backlogs.pop(key)
            except zmq.ZMQError as error:
                if error.errno != zmq.EHOSTUNREACH:
                    raise
                self._unroutable(key, 0)
        if self._refused and self._on_writable is not None:
            for key in [key for key in self._refused if key not in backlogs and self.windows.reopen(key)]:
                self._refused.discard(key)
                self._on_writable(key)

    def _unroutable(self, key: bytes, count: int) -> None:
        self._counters.unroutable += count + self.forget(key)
        if self._on_unroutable is not None:
            self._on_unroutable(key)

    def forget(self, key: bytes = b"") -> int:
        """Drop the messages queued for a destination whose connection is gone. Return their number."""
        self._refused.discard(key)
        self.windows.forget(key)
        return self._backlogs.drop(key)

    def close(self) -> None:
        """Send what was held back, and drop what waits."""
        self.send_run()
        self._closed = True
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None
        self._backlogs.clear()
        self._refused.clear()
