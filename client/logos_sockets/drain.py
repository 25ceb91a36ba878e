"""Own a ZeroMQ socket on an event loop, without a Future per message and without losing an edge.

libzmq's file descriptor (ZMQ_FD) is edge-triggered, and *any* call on the socket may consume the edge: a
send that happens to process "a message arrived" leaves a reader that waits for the descriptor asleep for
ever. So a socket has exactly one owner here, and the owner reads until `EAGAIN` after everything that may
have consumed an edge:

- the descriptor became readable: drain;
- something was sent: the first time since the last drain the socket is asked at once whether it is
  readable; for the rest of a burst, and after a subscription, one drain is scheduled for the same turn of
  the loop;
- a handler raised, or the batch bound was hit: the drain continues in the next turn.

Receiving ends with a `copy=False` frame, since its `more` flag comes with it: asking the socket for RCVMORE
costs more than the whole receive. The frames that every valid message has (`least_frames`) are read without
asking, which halves the cost; a shorter message then takes frames of the next one with it, and both are
refused. So use that only for streams that detect a loss and repair it. Sending is one direct call per
frame: `send_multipart` costs three times that.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

import zmq

from logos_sockets.backlog import Backlogs
from logos_sockets.window import Windows

_NOBLOCK: Final = int(zmq.NOBLOCK)
_EVENTS: Final = int(zmq.EVENTS)
_POLLIN: Final = int(zmq.POLLIN)
_NOBLOCK_MORE: Final = int(zmq.NOBLOCK | zmq.SNDMORE)

#: Most messages handled in one turn of the loop, and the time after which the turn ends early.
DEFAULT_BATCH: Final = 256
_BATCH_SECONDS: Final = 0.02
#: Frames kept of one message to a server: identity, delimiter, three of ours, 64 blobs and some room. The
#: rest is read and dropped, and the decoder then refuses the message.
MAX_FRAMES: Final = 80
_ANY_NUMBER: Final = 1 << 30
_FLUSH_EVERY_S: Final = 0.02
_FLUSH_FIRST_S: Final = 0.001
_LOOK_S: Final = 0.005
_DRAIN_ROUNDS: Final = 16
#: Bounds of what `send_soon` holds back: messages, and bytes of a frame that ends the batch.
_RUN_MESSAGES: Final = 64
_RUN_FRAME: Final = 16 << 10
#: Approximate bytes of an event besides its payload.
_OVERHEAD: Final = 256


class Handle(Protocol):
    """A scheduled call."""

    def cancel(self) -> object:
        """Cancel the call."""


class Loop(Protocol):
    """The part of an event loop used here; asyncio's loops (uvloop's too) have it."""

    def call_soon(self, callback: Callable[[], object], /) -> Handle:
        """Call in the next turn."""

    def call_later(self, delay: float, callback: Callable[[], object], /) -> Handle:
        """Call after so many seconds."""

    def add_reader(self, fd: int, callback: Callable[[], object], /) -> object:
        """Call whenever the descriptor is readable."""

    def remove_reader(self, fd: int, /) -> object:
        """Undo `add_reader`."""


class PeerCredentials(NamedTuple):
    """Identity of an ipc peer according to the operating system, not to the peer."""

    uid: int
    gid: int
    pid: int


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


@dataclass(frozen=True, slots=True)
class DrainLimits:
    """Bounds of a `DrainSocket`.

    `batch`: messages handled in one turn; `least_frames`: see the module docstring.
    """

    batch: int = DEFAULT_BATCH
    least_frames: int = 1
    backlog_messages: int = 1_000
    backlog_bytes: int = 8 << 20
    total_backlog_bytes: int = 64 << 20


@functools.lru_cache(maxsize=1024)
def _credentials(address: str) -> PeerCredentials | None:
    """Read libzmq's address of an ipc peer: `…:uid:gid:pid`. Each message has one, and few are different."""
    parts = address.rsplit(":", 3)
    if len(parts) != 4 or not all(part.isdigit() for part in parts[1:]):
        return None
    return PeerCredentials(int(parts[1]), int(parts[2]), int(parts[3]))


class DrainSocket:
    """Owns `socket`: drains it whenever it may hold a message, and sends without blocking.

    `on_message(frames)` gets every message as a list of bytes (on a ROUTER the sender's identity first). It
    runs on the loop, must not block, and may call `send` and `close`. What it raises goes to the loop's
    exception handler; reading continues.

    A message that the socket cannot take now is queued in a backlog, in order, bounded in count and bytes;
    on a ROUTER there is one per peer, so that a peer that does not read costs the others nothing, and one
    bound over all. Beyond the bounds `send` returns False and counts the drop; `on_writable(identity)` is
    called when that destination's backlog has been sent (identity is b"" unless this is a ROUTER).

    Configure, bind and connect the zmq socket before handing it over; afterwards only this object and the
    socket's door may call it.

        socket = DrainSocket(asyncio.get_running_loop(), open_dealer(context, endpoint), handle)
        socket.send([b"LD1", header, body])
        socket.close()
    """

    def __init__(
        self,
        loop: Loop,
        socket: zmq.Socket[bytes],
        on_message: Callable[[list[bytes]], None],
        *,
        on_unroutable: Callable[[bytes], None] | None = None,
        on_writable: Callable[[bytes], None] | None = None,
        limits: DrainLimits | None = None,
    ) -> None:
        limits = limits or DrainLimits()
        self.counters = SocketCounters()
        self.windows = Windows()
        self.heard: Callable[[int], object] | None = None
        """If set, called with the descriptor of each message's connection (see `Door.heard`)."""
        self._socket = socket
        self._on_message = on_message
        self._on_unroutable = on_unroutable
        self._on_writable = on_writable
        self._batch = limits.batch
        self._least_frames = limits.least_frames
        self._keyed = int(socket.getsockopt(zmq.TYPE)) == zmq.ROUTER
        self._most_frames = MAX_FRAMES if self._keyed else _ANY_NUMBER
        self._backlogs = Backlogs(limits.backlog_messages, limits.backlog_bytes, limits.total_backlog_bytes)
        self._refused: set[bytes] = set()
        self._run: list[Sequence[bytes]] = []
        # The backend's methods, bound: the layer above them in pyzmq only adds keyword arguments we do not
        # use.
        self._send_frame: Callable[..., None] = functools.partial(zmq.backend.Socket.send, socket)
        self._recv_frame: Callable[..., Any] = functools.partial(zmq.backend.Socket.recv, socket)
        self._get_option: Callable[[int], Any] = functools.partial(zmq.backend.Socket.get, socket)
        self._last_frame: zmq.Frame | None = None
        self._draining = False
        self._looked = False  # after a send, since the last drain: the next ones share one look
        self._paused = False
        self._scheduled: Handle | None = None
        self._flush_timer: Handle | None = None
        self._flush_delay = _FLUSH_FIRST_S
        self._look_timer: Handle | None = None
        self._closed = False
        self._loop = loop
        self._fd = int(socket.getsockopt(zmq.FD))
        self._loop.add_reader(self._fd, self._drain)
        self._schedule()

    # -- sending --------------------------------------------------------------------------------------------

    def send(self, frames: Sequence[bytes]) -> bool:
        """Send one message, or queue it until the socket can take it. Never blocks.

        On a ROUTER the first frame is the destination. Return False if closed, if there is no such peer
        (`on_unroutable` is called), or if the backlog is full; the message is dropped and counted then.
        """
        return self._send_in_order(frames)

    def _send_in_order(self, frames: Sequence[bytes], *, stream: bool = False) -> bool:
        if self._closed:
            return False
        if self._run:
            self._send_run()
        return self._send_now(frames, stream=stream)

    def _send_now(self, frames: Sequence[bytes], *, promised: bool = False, stream: bool = False) -> bool:
        key = frames[0] if self._keyed else b""
        if key in self._backlogs:
            return self._keep(key, frames, promised=promised, stream=stream)
        # A drain in progress continues until EAGAIN after we return, so it needs no second one.
        alone = self._scheduled is None and not self._draining
        if alone and self._looked:
            alone = False
            self._schedule()
        try:
            sent = self._try_send(frames)
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            self._unroutable(key, 1)
            return False
        finally:
            if alone and not self._closed:
                # Looking at once saves a request that is alone a turn of the loop, a fifth of its round trip.
                self._looked = True
                if self._readable():
                    self._schedule()
        return True if sent else self._keep(key, frames, promised=promised, stream=stream)

    def send_soon(self, frames: Sequence[bytes]) -> bool:
        """Like `send`, for streams: all messages of one loop turn go out in one run at its end.

        libzmq's thread then processes many messages per wake-up, and so does the reader. True is a promise:
        the message goes out or waits in the backlog, unless the peer turns out to be gone
        (`on_unroutable`). Order with `send` is kept. False: the peer has not read what it was sent
        (`windows`), or the backlog is full. On a ROUTER that is half of it: the rest is left to `send`, since
        a stream can wait, while the answer to a request would be lost.
        """
        key = frames[0] if self._keyed else b""
        if self._closed or key in self._backlogs:
            return self._send_in_order(frames, stream=self._keyed)
        if not self.windows.take(key, len(frames[-1]) + _OVERHEAD):
            self._note_refused(key)
            return False
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
        self.counters.sent += 1
        return True

    def _keep(self, key: bytes, frames: Sequence[bytes], *, promised: bool, stream: bool) -> bool:
        if not self._backlogs.add(key, frames, promised=promised, stream=stream):
            self.counters.dropped += 1
            self.counters.dropped_bytes += sum(map(len, frames))
            self._note_refused(key)
            return False
        self.counters.queued += 1
        self._flush_later()
        return True

    def _note_refused(self, key: bytes) -> None:
        if self._on_writable is not None:
            self._refused.add(key)
            self._flush_later()

    def publish(self, first: bytes, second: bytes, third: bytes) -> None:
        """Send exactly three frames on a socket that never refuses (XPUB, which drops instead)."""
        send = self._send_frame
        send(first, _NOBLOCK_MORE)
        send(second, _NOBLOCK_MORE)
        send(third, _NOBLOCK)
        self.counters.sent += 1
        # Checking for the edge on each call would cost as much as sending: one check soon is enough.
        if self._look_timer is None and not self._draining:
            self._look_timer = self._loop.call_later(_LOOK_S, self._look)

    def _look(self) -> None:
        self._look_timer = None
        self._drain_scheduled()

    def _flush_later(self) -> None:
        # A peer that reads again wakes us through the descriptor, but one call may consume the wake-ups of
        # several peers of a ROUTER without saying which; and a window opens without any signal. So while
        # messages are queued, a timer polls: immediately at first, then with growing delay.
        if self._flush_timer is None:
            self._flush_timer = self._loop.call_later(self._flush_delay, self._flush_timed)

    def _flush_timed(self) -> None:
        self._flush_timer = None
        before = self.counters.sent
        self._drain()
        if self._backlogs or self._refused:
            moved = self.counters.sent != before
            self._flush_delay = _FLUSH_FIRST_S if moved else min(2 * self._flush_delay, _FLUSH_EVERY_S)
            self._flush_later()
        else:
            self._flush_delay = _FLUSH_FIRST_S

    def _flush(self) -> None:
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
        self.counters.unroutable += count + self.forget(key)
        if self._on_unroutable is not None:
            self._on_unroutable(key)

    def forget(self, key: bytes = b"") -> int:
        """Drop the messages queued for a destination whose connection is gone. Return their number."""
        self._refused.discard(key)
        self.windows.forget(key)
        return self._backlogs.drop(key)

    @property
    def backlog_bytes(self) -> int:
        """Bytes of all queued messages."""
        return self._backlogs.size

    def backlog_of(self, key: bytes = b"") -> int:
        """Return the bytes queued for one destination (the identity on a ROUTER)."""
        return self._backlogs.held(key)

    # -- receiving ------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        if self.closed or self._draining:
            return
        if self.paused:
            self._flush()
            return
        receive, on_message, counters = self._recv_frame, self._on_message, self.counters
        sure = range(self._least_frames - 1)
        end = time.monotonic() + _BATCH_SECONDS
        again = True  # stays so when a handler raises or the batch is full
        first = True
        self._looked = False
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
                    # Shorter than a valid message, with nothing behind it: the handler refuses it.
                else:
                    frames.append(frame.bytes)
                    while frame.more:
                        frame = receive(_NOBLOCK, False)
                        if len(frames) < self._most_frames:
                            frames.append(frame.bytes)
                    self._last_frame = frame
                    if self.heard is not None:
                        self.heard(self.peer_descriptor())
                counters.received += 1
                on_message(frames)
                if self._closed or self._paused:
                    again = not self._closed
                    return
                if first:
                    # Often nothing follows, and asking costs a third of a failing read.
                    first = False
                    if not self._readable():
                        again = False
                        break
                if time.monotonic() > end:
                    break
            if self._backlogs or self._refused:
                self._flush()
                again = again or (not self._closed and self._readable())
        except zmq.ContextTerminated:
            # The context is terminated and this socket with it: retrying would loop for ever.
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
        self._looked = False
        # Usually the socket is empty, and asking costs a third of a failing read.
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
        """Handle everything that has arrived, up to the socket's own bound (its high-water mark), before
        returning.

        Also makes the socket process connects and disconnects, which a mere send may defer.
        """
        for _ in range(_DRAIN_ROUNDS):
            if self._closed or self._draining or self._paused or not self._readable():
                break
            self._drain()
        self._schedule()

    def pause(self) -> None:
        """Stop reading (back-pressure): messages stay in the socket up to its high-water mark.

        Sending continues.
        """
        if not self._paused and not self._closed:
            self._paused = True
            # The descriptor stays readable while paused; a level-triggered loop would spin.
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
        """Return the sender of the message being handled: valid inside `on_message`, on ipc connections
        only."""
        if self._last_frame is None:
            return None
        try:
            address = self._last_frame.get("Peer-Address")
        except zmq.ZMQError:
            return None
        return _credentials(str(address))

    def peer_descriptor(self) -> int:
        """Descriptor on which the message being handled arrived; -1 if unknown."""
        if self._last_frame is None:
            return -1
        try:
            return int(self._last_frame.get(zmq.SRCFD))
        except zmq.ZMQError:
            return -1

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
        self._socket.connect(endpoint)
        self._schedule()

    def disconnect(self, endpoint: str) -> None:
        """Disconnect from an endpoint, and drop its messages: those not read, and those not on their way."""
        self._send_run()
        self._socket.disconnect(endpoint)
        self._schedule()

    @property
    def closed(self) -> bool:
        """True after `close`."""
        return self._closed

    def close(self) -> None:
        """Stop reading and close the socket.

        The backlog is dropped; what the socket took follows its LINGER.
        """
        if self._closed:
            return
        self._send_run()
        self._closed = True
        if not self._paused:
            self._loop.remove_reader(self._fd)
        if self._scheduled is not None:
            self._scheduled.cancel()
            self._scheduled = None
        for timer in (self._flush_timer, self._look_timer):
            if timer is not None:
                timer.cancel()
        self._flush_timer = self._look_timer = None
        self._backlogs.clear()
        self._refused.clear()
        self._socket.close()
