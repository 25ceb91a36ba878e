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
refused. So use that only for streams that detect a loss and repair it.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import zmq

from logos_sockets.backlog import Backlogs
from logos_sockets.loop import Handle, Loop
from logos_sockets.outgoing import Outgoing, SocketCounters

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
_LOOK_S: Final = 0.005
_DRAIN_ROUNDS: Final = 16


class PeerCredentials(NamedTuple):
    """Identity of an ipc peer according to the operating system, not to the peer."""

    uid: int
    gid: int
    pid: int


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
        self.heard: Callable[[int], object] | None = None
        """If set, called with the descriptor of each message's connection (see `Door.heard`)."""
        self._socket = socket
        self._on_message = on_message
        self._batch = limits.batch
        self._least_frames = limits.least_frames
        self._backlogs = Backlogs(limits.backlog_messages, limits.backlog_bytes, limits.total_backlog_bytes)
        self._outgoing = Outgoing(
            loop,
            socket,
            self,
            self._backlogs,
            self.counters,
            on_unroutable=on_unroutable,
            on_writable=on_writable,
        )
        self.windows = self._outgoing.windows
        self._most_frames = MAX_FRAMES if self._outgoing.keyed else _ANY_NUMBER
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
        return self._outgoing.send(frames)

    def send_soon(self, frames: Sequence[bytes]) -> bool:
        """Like `send`, for streams: all messages of one loop turn go out in one run at its end.

        libzmq's thread then processes many messages per wake-up, and so does the reader. True is a promise:
        the message goes out or waits in the backlog, unless the peer turns out to be gone
        (`on_unroutable`). Order with `send` is kept. False: the peer has not read what it was sent
        (`windows`), or the backlog is full. On a ROUTER that is half of it: the rest is left to `send`, since
        a stream can wait, while the answer to a request would be lost.
        """
        return self._outgoing.send_soon(frames)

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

    def forget(self, key: bytes = b"") -> int:
        """Drop the messages queued for a destination whose connection is gone. Return their number."""
        return self._outgoing.forget(key)

    @property
    def backlog_bytes(self) -> int:
        """Bytes of all queued messages."""
        return self._backlogs.size

    # -- for the sending part (`Edge`) ----------------------------------------------------------------------

    def before_send(self) -> bool:
        """See `Edge`."""
        # A drain in progress continues until EAGAIN after the send, so it needs no second one.
        if self._scheduled is not None or self._draining:
            return False
        if self._looked:
            self._schedule()
            return False
        return True

    def after_send(self) -> None:
        """See `Edge`."""
        if not self._closed:
            # Looking at once saves a request that is alone a turn of the loop, a fifth of its round trip.
            self._looked = True
            if self._readable():
                self._schedule()

    def read_on(self) -> None:
        """See `Edge`."""
        self._drain()

    # -- receiving ------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        if self.closed or self._draining:
            return
        if self.paused:
            self._outgoing.flush()
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
            if self._outgoing.waiting:
                self._outgoing.flush()
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
            wanted = not self._closed and (self._outgoing.waiting or self._readable())
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
        self._outgoing.send_run()
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
        self._outgoing.close()
        self._closed = True
        if not self._paused:
            self._loop.remove_reader(self._fd)
        if self._scheduled is not None:
            self._scheduled.cancel()
            self._scheduled = None
        if self._look_timer is not None:
            self._look_timer.cancel()
            self._look_timer = None
        self._socket.close()
