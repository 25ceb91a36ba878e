"""One owner for one ZeroMQ socket on an asyncio loop (uvloop too), without a Future per message.

libzmq's file descriptor is edge-triggered, and *any* call on the socket may eat the edge: a send that
happens to process "a message arrived" leaves a reader that waits for the descriptor asleep for ever. So a
socket has exactly one owner here, and the owner reads until the socket says `EAGAIN` after everything that
may have eaten an edge:

- the descriptor became readable: drain;
- something was sent, subscribed or flushed: one drain is scheduled for the same turn of the loop (one for a
  whole burst);
- a handler raised, or the batch bound was hit: the drain goes on in the next turn.

Receiving ends with a `copy=False` frame, since its `more` flag comes with it: asking the socket for RCVMORE
costs more than the whole receive. The frames that every good message has (`least_frames`) are read without
asking, which halves the cost; a shorter message then takes frames of the next one with it, and both are
refused as one that makes no sense. So that is for streams that notice a loss and repair it. Sending is one
direct call per frame: `send_multipart` costs three times that.
"""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import zmq

from logos_client._options import open_dealer, open_router, open_subscriber

__all__ = [
    "DEFAULT_BATCH",
    "DrainSocket",
    "PeerCredentials",
    "SocketCounters",
    "open_dealer",
    "open_router",
    "open_subscriber",
]

_NOBLOCK: Final = int(zmq.NOBLOCK)
_EVENTS: Final = int(zmq.EVENTS)
_POLLIN: Final = int(zmq.POLLIN)
_NOBLOCK_MORE: Final = int(zmq.NOBLOCK | zmq.SNDMORE)

#: Messages handled in one turn of the loop before others get theirs.
DEFAULT_BATCH: Final = 256
_FLUSH_EVERY_S: Final = 0.02
_DRAIN_ROUNDS: Final = 16
#: What `send_soon` holds back at most: so many messages, and nothing behind a frame of so many bytes.
_RUN_MESSAGES: Final = 64
_RUN_FRAME: Final = 16 << 10


class PeerCredentials(NamedTuple):
    """Who is at the other end of an ipc connection, as the operating system says (not as the peer claims)."""

    uid: int
    gid: int
    pid: int


@dataclass(slots=True)
class SocketCounters:
    """What a socket did since it was opened. `dropped` and `unroutable` are messages that `send` answered
    with False."""

    received: int = 0
    sent: int = 0
    queued: int = 0
    dropped: int = 0
    dropped_bytes: int = 0
    unroutable: int = 0


class _Backlog:
    """What one destination could not take yet, oldest first."""

    __slots__ = ("messages", "size")

    def __init__(self) -> None:
        self.messages: deque[tuple[Sequence[bytes], int]] = deque()
        self.size = 0


class DrainSocket:
    """Owns `socket`: reads it dry whenever it may hold something, and sends without blocking.

    `on_message(frames)` gets every message as a list of bytes (on a ROUTER the sender's identity first). It
    runs on the loop, must not block, and may call `send` and `close`. What it raises reaches the loop's
    exception handler; reading goes on.

    A message that the socket cannot take now waits in a backlog, bounded in count and bytes, in order; on a
    ROUTER there is one per peer, so that a peer that does not read costs the others nothing, and one bound
    over all. Beyond the bounds `send` answers False and counts the drop; `on_writable(identity)` is called
    when that destination's backlog has been taken (identity is b"" unless this is a ROUTER).

    The caller keeps the right to configure, bind and connect the zmq socket before it hands it over;
    afterwards only this object calls it. Must be created on a running loop.

        socket = DrainSocket(open_dealer(context, endpoint), on_message=handle)
        socket.send([b"LD1", header, body])
        socket.close()
    """

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        on_message: Callable[[list[bytes]], None],
        *,
        on_unroutable: Callable[[bytes], None] | None = None,
        on_writable: Callable[[bytes], None] | None = None,
        batch: int = DEFAULT_BATCH,
        least_frames: int = 1,
        backlog_messages: int = 1_000,
        backlog_bytes: int = 8 << 20,
        total_backlog_bytes: int = 64 << 20,
    ) -> None:
        self.counters = SocketCounters()
        self._socket = socket
        self._on_message = on_message
        self._on_unroutable = on_unroutable
        self._on_writable = on_writable
        self._batch = batch
        self._least_frames = least_frames
        self._backlog_messages = backlog_messages
        self._backlog_bytes = backlog_bytes
        self._total_backlog_bytes = total_backlog_bytes
        self._keyed = int(socket.getsockopt(zmq.TYPE)) == zmq.ROUTER
        self._backlogs: dict[bytes, _Backlog] = {}
        self._backlog_size = 0
        self._refused: set[bytes] = set()
        self._run: list[Sequence[bytes]] = []
        # The backend's methods, bound: the layer above them in pyzmq only adds keyword arguments we do not
        # use.
        self._send_frame: Callable[..., None] = functools.partial(zmq.backend.Socket.send, socket)
        self._recv_frame: Callable[..., Any] = functools.partial(zmq.backend.Socket.recv, socket)
        self._get_option: Callable[[int], Any] = functools.partial(zmq.backend.Socket.get, socket)
        self._last_frame: zmq.Frame | None = None
        self._draining = False
        self._paused = False
        self._scheduled: asyncio.Handle | None = None
        self._flush_timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._fd = int(socket.getsockopt(zmq.FD))
        self._loop.add_reader(self._fd, self._drain)
        self._schedule()

    # -- sending --------------------------------------------------------------------------------------------

    def send(self, frames: Sequence[bytes]) -> bool:
        """Send one message, or keep it until the socket can take it. Never blocks.

        On a ROUTER the first frame is the destination. False: closed, no such peer (`on_unroutable` is
        called), or the backlog is full; the message is then gone and counted.
        """
        if self._closed:
            return False
        if self._run:
            self._send_run()
        return self._send_now(frames)

    def _send_now(self, frames: Sequence[bytes], *, promised: bool = False) -> bool:
        key = frames[0] if self._keyed else b""
        if key in self._backlogs:
            return self._keep(key, frames, promised=promised)
        # A drain in progress goes on until EAGAIN after we return, so it needs no second one.
        if self._scheduled is None and not self._draining:
            self._scheduled = self._loop.call_soon(self._drain_scheduled)
        try:
            sent = self._try_send(frames)
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            self._unroutable(key, 1)
            return False
        return True if sent else self._keep(key, frames, promised=promised)

    def send_soon(self, frames: Sequence[bytes]) -> bool:
        """`send` for streams: what one turn of the loop brings goes out in one run at its end.

        libzmq's thread then works through many messages for one wake-up, and so does the reader. True is a
        promise: the message goes out or waits in the backlog, unless the peer turns out to be gone
        (`on_unroutable`). Order with `send` is kept.
        """
        key = frames[0] if self._keyed else b""
        if self._closed or key in self._backlogs:
            return self.send(frames)
        run = self._run
        run.append(frames)
        if len(run) == 1:
            self._loop.call_soon(self._send_run)
        if len(run) >= _RUN_MESSAGES or len(frames[-1]) >= _RUN_FRAME:
            self._send_run()
        return True

    def _send_run(self) -> None:
        run, self._run = self._run, []
        for frames in run:
            if self._closed:
                return  # by what we called
            self._send_now(frames, promised=True)

    def _try_send(self, frames: Sequence[bytes]) -> bool:
        """One attempt. False: not now, and nothing of the message went out."""
        send = self._send_frame
        last = len(frames) - 1
        at = 0
        try:
            while at < last:
                send(frames[at], _NOBLOCK_MORE)
                at += 1
            send(frames[at], _NOBLOCK)
        except zmq.Again:
            # Refused in the middle: the connection went away, and libzmq rolled the message's first frames
            # back. It now throws frames away up to the end of this message, so they must be offered: else
            # the next message would lose its head.
            if 0 < at < last:
                for position in range(at + 1, last + 1):
                    send(frames[position], _NOBLOCK if position == last else _NOBLOCK_MORE)
            return False
        self.counters.sent += 1
        return True

    def _keep(self, key: bytes, frames: Sequence[bytes], *, promised: bool = False) -> bool:
        size = sum(map(len, frames))
        backlog = self._backlogs.get(key)
        held, count = (backlog.size, len(backlog.messages)) if backlog is not None else (0, 0)
        if not promised and (
            count >= self._backlog_messages
            or held + size > self._backlog_bytes
            or self._backlog_size + size > self._total_backlog_bytes
        ):
            self.counters.dropped += 1
            self.counters.dropped_bytes += size
            if self._on_writable is not None:
                self._refused.add(key)
                self._flush_later()
            return False
        if backlog is None:
            backlog = self._backlogs[key] = _Backlog()
        backlog.messages.append((frames, size))
        backlog.size += size
        self._backlog_size += size
        self.counters.queued += 1
        self._flush_later()
        return True

    def _flush_later(self) -> None:
        # A peer that reads again wakes us through the descriptor, but one call may eat the wake-ups of
        # several peers of a ROUTER, and nothing tells which: so while something waits here, a slow timer
        # asks.
        if self._flush_timer is None:
            self._flush_timer = self._loop.call_later(_FLUSH_EVERY_S, self._flush_timed)

    def _flush_timed(self) -> None:
        self._flush_timer = None
        self._drain()
        if self._backlogs or self._refused:
            self._flush_later()

    def _flush(self) -> None:
        """Offer each destination what waits for it. The sends may eat an edge: the caller looks once more."""
        for key, backlog in list(self._backlogs.items()):
            if self._closed:
                return  # by what we called
            messages = backlog.messages
            try:
                while messages and self._try_send(messages[0][0]):
                    size = messages.popleft()[1]
                    backlog.size -= size
                    self._backlog_size -= size
            except zmq.ZMQError as error:
                if error.errno != zmq.EHOSTUNREACH:
                    raise
                self._unroutable(key, len(messages))
                continue
            if not messages:
                self._backlogs.pop(key, None)
        if self._refused and self._on_writable is not None:
            for key in [key for key in self._refused if key not in self._backlogs]:
                self._refused.discard(key)
                self._on_writable(key)

    def _unroutable(self, key: bytes, count: int) -> None:
        self.drop_backlog(key)
        self._refused.discard(key)
        self.counters.unroutable += count
        if self._on_unroutable is not None:
            self._on_unroutable(key)

    def drop_backlog(self, key: bytes = b"") -> int:
        """Throw away what waits for a destination (the connection it was meant for is gone); how many
        messages that was."""
        backlog = self._backlogs.pop(key, None)
        if backlog is None:
            return 0
        self._backlog_size -= backlog.size
        return len(backlog.messages)

    @property
    def backlog_bytes(self) -> int:
        """Bytes of all messages that wait for the socket to take them."""
        return self._backlog_size

    def backlog_of(self, key: bytes = b"") -> int:
        """Bytes that wait for one destination (the identity on a ROUTER)."""
        backlog = self._backlogs.get(key)
        return backlog.size if backlog is not None else 0

    # -- receiving ------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        if self.closed or self._draining:
            return
        if self.paused:
            self._flush()
            return
        receive, on_message, counters = self._recv_frame, self._on_message, self.counters
        sure = range(self._least_frames - 1)
        again = True  # stays so when a handler raises or the batch is full
        self._draining = True
        try:
            for _ in range(self._batch):
                frames: list[bytes] = []
                try:
                    for _ in sure:
                        frames.append(receive(_NOBLOCK))  # noqa: PERF401 (what came before EAGAIN stays)
                    frame: zmq.Frame = receive(_NOBLOCK, False)
                except zmq.Again:
                    if not frames:
                        again = False
                        break
                    # Shorter than it may be, and nothing behind it: the handler refuses it.
                else:
                    frames.append(frame.bytes)
                    while frame.more:
                        frame = receive(_NOBLOCK, False)
                        frames.append(frame.bytes)
                    self._last_frame = frame
                counters.received += 1
                on_message(frames)
                if self._closed or self._paused:
                    again = not self._closed
                    return
            if self._backlogs or self._refused:
                self._flush()
                again = again or (not self._closed and self._readable())
        except zmq.ContextTerminated:
            # Whoever ended the context ended us: looking again would find the same, for ever.
            again = False
            self._draining = False
            self.close()
        finally:
            self._draining = False
            self._last_frame = None
            if again:
                self._schedule()

    def _readable(self) -> bool:
        return bool(self._get_option(_EVENTS) & _POLLIN)

    def _drain_scheduled(self) -> None:
        self._scheduled = None
        # Most often there is nothing, and asking costs a third of a read that fails.
        try:
            wanted = not self._closed and (self._backlogs or self._refused or self._readable())
        except zmq.ContextTerminated:
            self.close()
            return
        if wanted:
            self._drain()

    def _schedule(self) -> None:
        if self._scheduled is None and not self._closed:
            self._scheduled = self._loop.call_soon(self._drain_scheduled)

    def drain_now(self) -> None:
        """Handle what has arrived before going on, as far as the socket's own bound (its high-water mark).

        Also makes the socket take notice of connections that came and went, which a mere send may put off.
        """
        for _ in range(_DRAIN_ROUNDS):
            if self._closed or self._draining or self._paused or not self._readable():
                break
            self._drain()
        self._schedule()

    def rearm(self) -> None:
        """Must follow every call on the zmq socket that did not go through this object."""
        self._schedule()

    def pause(self) -> None:
        """Stop reading (back-pressure): messages stay in the socket up to its high-water mark.

        Sending goes on.
        """
        if not self._paused and not self._closed:
            self._paused = True
            # The descriptor stays readable while nobody reads; on a level-triggered loop that would spin.
            self._loop.remove_reader(self._fd)

    def resume(self) -> None:
        """Read again after `pause`."""
        if self._paused and not self._closed:
            self._paused = False
            self._loop.add_reader(self._fd, self._drain)
            self._schedule()

    @property
    def paused(self) -> bool:
        """True between `pause` and `resume`."""
        return self._paused

    def peer_credentials(self) -> PeerCredentials | None:
        """Who sent the message being handled: valid inside `on_message` only, and on ipc connections only."""
        if self._last_frame is None:
            return None
        try:
            address = self._last_frame.get("Peer-Address")
        except zmq.ZMQError:
            return None
        parts = str(address).rsplit(":", 3)
        if len(parts) != 4 or not all(part.isdigit() for part in parts[1:]):
            return None
        return PeerCredentials(int(parts[1]), int(parts[2]), int(parts[3]))

    # -- socket options and end -----------------------------------------------------------------------------

    def subscribe(self, topic: bytes) -> None:
        """SUB: receive messages whose first frame begins with `topic`."""
        self._socket.setsockopt(zmq.SUBSCRIBE, topic)
        self._schedule()

    def unsubscribe(self, topic: bytes) -> None:
        """SUB: undo one `subscribe`."""
        self._socket.setsockopt(zmq.UNSUBSCRIBE, topic)
        self._schedule()

    def connect(self, endpoint: str) -> None:
        """Connect the socket to one more endpoint."""
        self._socket.connect(endpoint)
        self._schedule()

    def disconnect(self, endpoint: str) -> None:
        """Leave an endpoint; what it had not read is dropped."""
        self._socket.disconnect(endpoint)
        self._schedule()

    @property
    def closed(self) -> bool:
        """True after `close`."""
        return self._closed

    def close(self) -> None:
        """Stop reading and close the socket; what still waits here is dropped, what the socket took follows
        its LINGER."""
        if self._closed:
            return
        self._send_run()
        self._closed = True
        if not self._paused:
            self._loop.remove_reader(self._fd)
        if self._scheduled is not None:
            self._scheduled.cancel()
            self._scheduled = None
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None
        self._backlogs.clear()
        self._refused.clear()
        self._backlog_size = 0
        self._socket.close()
