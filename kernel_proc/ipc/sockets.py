"""ZeroMQ sockets on trio: one owner task a socket, direct sends, no edge ever lost.

The file descriptor of a ZeroMQ socket is edge-triggered, and *any* call on the socket can take the edge away:
a task that sends while another waits for the descriptor can leave the waiter asleep with messages there. So
the owner reads until EAGAIN before it waits, and `send` looks at the socket's events after it has sent from
outside of the owner's own reading, and wakes the owner; `send3`, the hot path, only bounds the owner's sleep.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio
import zmq

from logos_process.endpoints import bind
from logos_process.logs import fields

__all__ = [
    "BLOB_SLACK",
    "OwnedSocket",
    "Peer",
    "hwm_for",
    "make_router",
    "make_xpub",
    "peer_uid",
]

log = logging.getLogger(__name__)

_MORE: Final = int(zmq.SNDMORE | zmq.NOBLOCK)
_LAST: Final = int(zmq.NOBLOCK)
_EVENTS: Final = int(zmq.EVENTS)
_POLLIN: Final = int(zmq.POLLIN)

BATCH: Final = 64
"""Messages handled between two checkpoints."""
BATCH_SECONDS: Final = 0.01
"""Time after which a batch ends early, so that expensive requests do not hold the other tasks."""
LOOK_SECONDS: Final = 0.005
"""After this time the owner reads whether or not it was told to, if `send3` may have taken its edge."""
MAX_FRAMES: Final = 80
"""Frames kept of one message: identity, delimiter, three of ours, 64 blobs and some room; the rest is read
and thrown away, and the decoder then refuses the message."""
XPUB_MEMORY: Final = 32 << 20
"""Bytes that one subscriber that does not read may hold in the kernel, at most."""
LINGER_MS: Final = 1000
BLOB_SLACK: Final = 16 << 10
"""How much a blob may be larger than the greatest message."""

Peer = str | None
"""What libzmq says about the other end: "localhost:<uid>:<gid>:<pid>" on ipc, an address on tcp."""


def peer_uid(peer: Peer) -> int | None:
    """The uid at the other end of an ipc connection; None for tcp, or when the system does not tell."""
    if peer is None:
        return None
    parts = peer.split(":")
    if len(parts) < 4 or not all(part.isdigit() for part in parts[-3:]):
        return None
    return int(parts[-3])


def hwm_for(max_message_size: int) -> int:
    """High-water mark of the XPUB, which counts messages: so many that their bytes fit `XPUB_MEMORY`."""
    return max(16, XPUB_MEMORY // max(1, max_message_size))


def make_xpub(context: zmq.Context[zmq.Socket[bytes]], max_message_size: int) -> zmq.Socket[bytes]:
    """An XPUB that tells of every new subscription, drops for readers that hang, and takes no big frames."""
    socket = context.socket(zmq.XPUB)
    socket.set(zmq.SNDHWM, hwm_for(max_message_size))
    socket.set(zmq.LINGER, LINGER_MS)
    socket.set(zmq.XPUB_VERBOSE, 1)
    socket.set(zmq.MAXMSGSIZE, 4096)  # subscriptions are short
    _common(socket)
    return socket


def make_router(
    context: zmq.Context[zmq.Socket[bytes]], *, max_frame: int, max_waiting: int
) -> zmq.Socket[bytes]:
    """A ROUTER that says when a client is gone or does not read.

    `max_frame` is the largest frame in bytes that a client may send (more closes its connection);
    `max_waiting` how many replies may wait for one client that does not read.
    """
    socket = context.socket(zmq.ROUTER)
    socket.set(zmq.ROUTER_MANDATORY, 1)
    socket.set(zmq.SNDHWM, max_waiting)
    socket.set(zmq.RCVHWM, max_waiting)
    socket.set(zmq.LINGER, LINGER_MS)
    socket.set(zmq.MAXMSGSIZE, max_frame)
    _common(socket)
    return socket


def _common(socket: zmq.Socket[bytes]) -> None:
    socket.set(zmq.HANDSHAKE_IVL, 5000)
    socket.set(zmq.BACKLOG, 256)


class OwnedSocket:
    """A bound socket with the one task that reads it.

    `on_message(peer, frames)` is called for each message, in order, inside `run`; it must not block. What it
    raises is logged and counted and costs that message alone. With `want_peer` the first frame is read with
    its metadata, so that `peer` says who sent it.
    """

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        name: str,
        on_message: Callable[[Peer, list[bytes]], None],
        *,
        want_peer: bool = False,
    ) -> None:
        self.name = name
        self.endpoint = ""
        self._socket = socket
        self._on_message = on_message
        self._want_peer = want_peer
        # The backend's methods, bound: pyzmq's layer above them adds keyword arguments and enums that we do
        # not use, at the price of the call itself.
        self._send_frame: Callable[[bytes, int], None] = partial(zmq.backend.Socket.send, socket)
        self._get_option: Callable[[int], Any] = partial(zmq.backend.Socket.get, socket)
        self._reading = False
        self._wait: trio.CancelScope | None = None
        self._looks_soon = False
        self.received = 0
        self.sent = 0
        self.dropped_slow = 0
        """Messages not sent since the client does not read."""
        self.dropped_gone = 0
        """Messages not sent since the client has left."""
        self.handler_errors = 0

    def bind(self, endpoint: str, *, group: bool = False) -> str:
        """See `bind`; remembers and returns the real endpoint."""
        self.endpoint = bind(self._socket, endpoint, group=group)
        return self.endpoint

    def close(self) -> None:
        """Close the socket; what is queued is still sent for up to the linger time. Removes an ipc file."""
        if not self._socket.closed:
            self._socket.close()
            if self.endpoint.startswith("ipc://"):
                Path(self.endpoint.removeprefix("ipc://")).unlink(missing_ok=True)

    # --- sending ---

    def send(self, frames: Sequence[bytes]) -> bool:
        """Send one message at once or drop it (counted). False: the client has left or does not read."""
        send = self._socket.send
        last = len(frames) - 1
        try:
            for frame in frames[:last]:
                send(frame, _MORE)
            send(frames[last], _LAST)
        except zmq.Again:
            self.dropped_slow += 1
            return False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            self.dropped_gone += 1
            return False
        finally:
            if not self._reading:
                self._after_call()
        self.sent += 1
        return True

    def send3(self, first: bytes, second: bytes, third: bytes) -> None:
        """`send` of exactly three frames for sockets that never refuse (XPUB): the hot path."""
        send = self._send_frame
        send(first, _MORE)
        send(second, _MORE)
        send(third, _LAST)
        self.sent += 1
        # Asking for the edge each time would cost as much as the sending: the owner looks a little later.
        if not self._looks_soon and self._wait is not None:
            self._looks_soon = True
            self._wait.deadline = trio.current_time() + LOOK_SECONDS

    def _after_call(self) -> None:
        """The call may have taken the edge that the owner waits for: wake it when there is work."""
        wait = self._wait
        if wait is not None and self._poll():
            wait.cancel()

    def _poll(self) -> bool:
        return bool(self._get_option(_EVENTS) & _POLLIN)

    # --- reading ---

    async def run(self) -> None:
        """Read for ever. Cancel to stop."""
        descriptor = int(self._socket.get(zmq.FD))
        while True:
            if self._drain():
                await trio.lowlevel.checkpoint()
                continue
            # From the EAGAIN that ended the drain to the registration in wait_readable nothing else runs.
            with trio.CancelScope() as self._wait:
                await trio.lowlevel.wait_readable(descriptor)
            self._wait = None
            self._looks_soon = False

    def _drain(self) -> bool:
        """Handle up to a batch of messages; True when more may be there."""
        self._reading = True
        end = time.monotonic() + BATCH_SECONDS
        try:
            for _ in range(BATCH):
                try:
                    peer, frames = self._receive()
                except zmq.Again:
                    return False
                self.received += 1
                try:
                    self._on_message(peer, frames)
                except Exception:
                    # A fault of ours in one message's handling; the next ones must be served all the same.
                    self.handler_errors += 1
                    log.exception("message handler failed", extra=fields(socket=self.name))
                if time.monotonic() > end:
                    return True
            return True
        finally:
            self._reading = False

    def _receive(self) -> tuple[Peer, list[bytes]]:
        socket = self._socket
        peer: Peer = None
        if self._want_peer:
            head = socket.recv(zmq.NOBLOCK, copy=False)
            try:
                peer = str(head.get("Peer-Address"))
            except zmq.ZMQError:
                peer = None
            frames = [head.bytes]
            more = head.more
        else:
            frames = [socket.recv(zmq.NOBLOCK)]
            more = bool(socket.get(zmq.RCVMORE))
        while more:
            frame = socket.recv(zmq.NOBLOCK)
            if len(frames) < MAX_FRAMES:
                frames.append(frame)
            more = bool(socket.get(zmq.RCVMORE))
        return peer, frames
