"""Bound the connections of a ZeroMQ socket, and keep the process able to open files.

libzmq accepts connections as fast as they come, and on ipc a full descriptor table ends the process: its
listener treats EMFILE as a programming error and aborts (`ipc_listener.cpp`, `accept`). Neither
`zmq_unbind` (it closes the connections that the listener has accepted) nor the socket monitor (libzmq's
thread accepts hundreds of connections before ours has looked once) can stop it in time. So libzmq never
listens on the public path here. A listener of our own does, with a short backlog. When clients wait in it
and there is room for all that its backlog can hold, a new listener takes its place under the path (`rename`
is atomic), and only then is the old one, which no further client can reach, handed to libzmq (ZMQ_USE_FD).
The next one follows when libzmq's thread has accepted all of them. So at most `BACKLOG + 1` connections come
uncounted, however fast clients connect, however late we run, and however late libzmq's thread does.

The socket monitor reports which descriptors libzmq accepted and lost (`connections`).

On tcp (loopback, configured on purpose) libzmq survives EMFILE, so it listens itself, and connections
beyond the limit are closed when the monitor reports them.
"""

from __future__ import annotations

import errno
import logging
import select
import socket
import string
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import zmq

from logos_sockets.connections import AcceptedConnections
from logos_sockets.descriptors import free_descriptors
from logos_sockets.listener import listening_socket

log = logging.getLogger(__name__)

BACKLOG: Final = 31
"""Most clients waiting for admission, less one: a Unix socket queues one more than its backlog."""
RESERVE: Final = 64
"""Descriptors reserved for files, other sockets and refusing connections."""
TICK: Final = 0.25
"""Seconds between two steps while idle."""
_SOON: Final = 0.005
"""Seconds to the next step while libzmq is accepting: after a restart all apps come back within moments, and
those that find the backlog full try again up to two seconds later."""
_REFUSED_AT_ONCE: Final = BACKLOG + 1
_SETTLED: Final = 2.0
"""Seconds after which libzmq has accepted every client of a listener handed to it."""
_GLANCES: Final = 10
_GLANCE_SECONDS: Final = 0.0002
_LOG_EVERY: Final = 60.0
_DIGITS: Final = string.ascii_letters + string.digits + "-_"
"""64, so that a name as short as `apps` leaves room for more listeners than there can be connections."""
_WATCHED: Final = int(zmq.EVENT_ACCEPTED | zmq.EVENT_ACCEPT_FAILED | zmq.EVENT_DISCONNECTED)


@dataclass(slots=True)
class DoorCounters:
    """Counters of connections.

    `refused`: closed because of a limit; `denied`: because of their uid; `flooding`: because they filled
    the memory (`logos_sockets.memory`).
    """

    accepted: int = 0
    refused: int = 0
    denied: int = 0
    flooding: int = 0


@dataclass(slots=True)
class _Listener:
    """A listener handed to libzmq. `live`: its connections."""

    endpoint: str
    since: float
    descriptor: int
    live: int = 0


class Door:
    """The listening side of one ZeroMQ socket. Call `step` when `fileno` is readable, and after `pause`.

    Create, step and close it from the owner of the socket, before the socket is closed.

    `limit` bounds the connections (one step may admit `BACKLOG` more, which are closed in the next). One
    process gets at most three quarters of it, so that a client that leaks connections does not lock the
    others out. `allowed_uids` (None: any peer that reaches the socket) is libzmq's own filter
    (ZMQ_IPC_FILTER_UID), applied before a byte is read.
    """

    def __init__(
        self,
        zmq_socket: zmq.Socket[bytes],
        name: str,
        *,
        limit: int,
        allowed_uids: frozenset[int] | None = None,
        free: Callable[[], int] = free_descriptors,
    ) -> None:
        self.counters = DoorCounters()
        self.name = name
        self.publishes = zmq_socket.getsockopt(zmq.TYPE) == zmq.XPUB
        self.endpoint = ""
        self._socket = zmq_socket
        self._limit = limit
        self._per_process = max(1, self._limit * 3 // 4)
        self._free = free
        self._path: Path | None = None
        self._mode = 0o700
        self._waiting: socket.socket | None = None
        self._handed = -1
        self._held_open = ""
        self._has_room = True
        self.pause = TICK
        """Seconds after which the next step is due."""
        self._serial = 0
        self._listeners: dict[str, _Listener] = {}
        self.accepted = AcceptedConnections()
        self._last_log = -_LOG_EVERY
        for uid in allowed_uids or ():
            zmq_socket.setsockopt(zmq.IPC_FILTER_UID, uid)
        self._monitor = self._open_monitor()
        self.heard: set[int] | None = None
        """While it is a set, the socket's reader adds the descriptors of complete messages to it."""

    def _open_monitor(self) -> zmq.Socket[bytes]:
        # No high-water mark: libzmq's I/O thread would block on a full monitor socket.
        where = f"inproc://door-{id(self)}"
        self._socket.monitor(where, _WATCHED)
        monitor: zmq.Socket[bytes] = self._socket.context.socket(zmq.PAIR)
        monitor.setsockopt(zmq.RCVHWM, 0)
        monitor.setsockopt(zmq.LINGER, 0)
        monitor.connect(where)
        return monitor

    # --- opening and closing ---

    def open(self, endpoint: str, *, group: bool = False) -> str:
        """Listen at an absolute ipc path, or on tcp. Return the endpoint, a tcp port `*` resolved.

        Raises OSError.
        """
        scheme, _, path = endpoint.partition("://")
        if scheme == "ipc":
            self._path = Path(path)
            self._mode = 0o770 if group else 0o700
            self._waiting = self._next_listener()
        else:
            try:
                self._socket.bind(endpoint)
            except zmq.ZMQError as error:
                raise OSError(error.errno, error.strerror) from error
            bound = self._socket.getsockopt(zmq.LAST_ENDPOINT)
            assert isinstance(bound, bytes)
            endpoint = bound.rstrip(b"\0").decode()
        self.endpoint = endpoint
        return endpoint

    def close(self) -> None:
        """Stop listening and remove the socket file. Connections end with the ZeroMQ socket."""
        if self._waiting is not None:
            self._waiting.close()
            self._waiting = None
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            self._path = None
        if not self._monitor.closed:
            if not self._socket.closed:
                self._socket.disable_monitor()
            self._monitor.close()

    def _next_listener(self) -> socket.socket:
        """Create a new listener under the public path; the previous one becomes unreachable."""
        path = self._path
        assert path is not None
        temporary = self._temporary(path)
        listener = listening_socket(temporary, mode=self._mode, backlog=BACKLOG)
        try:
            temporary.rename(path)
        except BaseException:
            listener.close()
            raise
        return listener

    def _temporary(self, path: Path) -> Path:
        """Return a path for one listener, by which libzmq and the monitor know it. Raises OSError.

        It exists only between two calls of this thread, and is no longer than the public path, so that it
        fits in `sockaddr_un` if that does. A listener keeps its name as long as one of its clients stays.
        """
        digits = max(3, min(6, len(path.name) - 1))
        names = len(_DIGITS) ** digits
        while len(self._listeners) < names:
            self._serial = (self._serial + 1) % names
            number = "".join(_DIGITS[self._serial >> shift & 63] for shift in range(0, 6 * digits, 6))
            temporary = path.with_name(f"~{number}")
            if f"ipc://{temporary}" not in self._listeners:
                return temporary
        raise OSError(errno.EADDRINUSE, f"{names} listeners have clients")

    # --- admission ----

    @property
    def fileno(self) -> int | None:
        """Descriptor that becomes readable when clients wait and can be admitted.

        None: wait for `pause`. It changes.
        """
        return self._waiting.fileno() if self._waiting is not None and self._has_room else None

    @property
    def connections(self) -> int:
        """Connections that libzmq has accepted and not lost."""
        return len(self.accepted)

    def step(self, now: float) -> None:
        """Process the monitor's events, and admit waiting clients as far as there is room."""
        self.pause = TICK
        self._read_monitor(now)
        self._forget_empty(now)
        if self._path is None:
            return
        if self._waiting is None:
            self._come_back()
        waiting = self._waiting
        if waiting is None or not _readable(waiting.fileno()):
            return
        if self._accepting():
            self._has_room, self.pause = False, _SOON
            return
        self._has_room = self.connections < self._limit and self._free() > 2 * (BACKLOG + 1) + RESERVE
        if self._has_room:
            self._hand_over(waiting, now)
        else:
            self._refuse_waiting(waiting, now)

    def _hand_over(self, listener: socket.socket, now: float) -> None:
        try:
            self._waiting = self._next_listener()
        except OSError as error:
            # A full disk has no room for a socket file. A listener that libzmq keeps, bounded by the monitor
            # only, is better than none; `_come_back` ends this state.
            self._warn(now, "cannot make the next socket file (%s): connections are bounded late", error)
            self._waiting = None
        endpoint = (
            f"ipc://{listener.getsockname()}"  # the path is only a name for `unbind`; the descriptor counts
        )
        self._handed = listener.detach()
        self._socket.setsockopt(zmq.USE_FD, self._handed)
        try:
            self._socket.bind(endpoint)
        finally:
            self._socket.setsockopt(zmq.USE_FD, -1)
        self._listeners[endpoint] = _Listener(endpoint, now, self._handed)
        self._held_open = endpoint if self._waiting is None else ""

    def _accepting(self) -> bool:
        """Return whether libzmq has still to accept clients of the last listener: usually for a moment."""
        for _ in range(_GLANCES):
            if self._handed < 0 or not _readable(self._handed):
                return False
            time.sleep(_GLANCE_SECONDS)
        return True

    def _come_back(self) -> None:
        try:
            self._waiting = self._next_listener()
        except OSError:
            return  # still no room; the next step tries again
        self._held_open = ""

    def _refuse_waiting(self, listener: socket.socket, now: float) -> None:
        """Close waiting clients: an immediate close is clearer to a client than silence. Bounded per step."""
        for _ in range(_REFUSED_AT_ONCE):
            try:
                refused, _ = listener.accept()
            except OSError:
                break
            refused.close()
            self.counters.refused += 1
        largest = self.accepted.largest()
        who = f", {largest[1]} of them by process {largest[0]}" if largest is not None else ""
        if self.connections < self._limit:
            who += ", and few file descriptors are free"
        self._warn(now, "%d connections%s: refusing further ones", self.connections, who)

    def _warn(self, now: float, text: str, *values: object) -> None:
        if now - self._last_log >= _LOG_EVERY:
            self._last_log = now
            log.warning("%s: %s", self.name, text % values)

    # --- monitor events ------

    def _read_monitor(self, now: float) -> None:
        while True:
            try:
                event, address = self._monitor.recv_multipart(zmq.NOBLOCK)
            except zmq.ZMQError:  # no more events, or the context is terminated
                return
            number = int.from_bytes(event[:2], sys.byteorder)
            value = int.from_bytes(event[2:6], sys.byteorder)
            if number == zmq.EVENT_ACCEPTED:
                self._accepted(value, address.decode(), now)
            elif number == zmq.EVENT_DISCONNECTED:
                self._lost(value)
            elif number == zmq.EVENT_ACCEPT_FAILED:
                self.counters.denied += 1
                self._warn(now, "closed a connection of a user that is not allowed (see allowed-uid)")

    def _accepted(self, descriptor: int, listener: str, now: float) -> None:
        self._lost(descriptor)
        self.counters.accepted += 1
        connection = self.accepted.add(descriptor, listener)
        if listener in self._listeners:
            self._listeners[listener].live += 1
        of_process = self.accepted.of_process(connection.pid)
        if self.connections > self._limit or (connection.pid and of_process > self._per_process):
            self.counters.refused += 1
            self._warn(now, "process %d has %d connections: closing further ones", connection.pid, of_process)
            self.accepted.cut(descriptor)

    def _lost(self, descriptor: int) -> None:
        connection = self.accepted.remove(descriptor)
        if connection is not None and connection.listener in self._listeners:
            self._listeners[connection.listener].live -= 1

    def _forget_empty(self, now: float) -> None:
        for listener in [each for each in self._listeners.values() if each.live <= 0]:
            if now - listener.since > _SETTLED and listener.endpoint != self._held_open:
                if listener.descriptor == self._handed:
                    self._handed = -1
                del self._listeners[listener.endpoint]
                self._socket.unbind(listener.endpoint)


def _readable(listener: int) -> bool:
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    return bool(poll.poll(0))
