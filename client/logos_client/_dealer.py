"""A DEALER that connects again by itself, and says when its connection is usable and when it is lost.

A DEALER reports neither, and a request sent between two servers would never be answered. libzmq's socket
monitor does, in order (zmq_socket_monitor(3)).

libzmq must not reconnect by itself here: it would deliver requests for a server that is gone, stale, to its
successor. Its option against this, IMMEDIATE, ends the pipe of a lost connection at any read, also between
two frames of a message, and aborts the process then (4.3.5: fq.cpp, `!_more`).
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Callable
from typing import Final

import zmq

from ipc_schema.frames import MAGIC
from logos_sockets import open_dealer
from logos_sockets.drain import DrainLimits, DrainSocket

_EVENTS: Final = int(
    zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | zmq.EVENT_CONNECT_RETRIED  # it would wait now
)
#: Seconds until the next attempt, which double; a random part of the first is added to each. A server lets in
#: a few dozen clients at a time, and after a restart all come at once.
_RECONNECT: Final = 0.05
_RECONNECT_MAX: Final = 0.25
#: The same where connections end before their handshake: waiting a moment does not change what listens there.
_STRANGE_MAX: Final = 3.2
#: Of every reply and event. Anything shorter is not a message; see `behind_a_short_one`.
_LEAST_FRAMES: Final = 3


def behind_a_short_one(frames: list[bytes]) -> list[bytes] | None:
    """Return the message that was read together with a shorter one before it, if that is what `frames` are.

    The least frames of a message are read without asking for more, which costs half as much (`DrainLimits`).
    """
    for start in range(1, _LEAST_FRAMES):
        if len(frames) >= start + _LEAST_FRAMES and frames[start] == MAGIC:
            return frames[start:]
    return None


class ReconnectingDealer:
    """Owns the socket: calls `on_up()` after each handshake, `on_down()` after each loss.

    `on_message(frames)` gets every message, and one that is too short together with the next. All that came
    before a loss has been given out when `on_down` is called, and nothing sent before it will reach another
    server.
    """

    def __init__(
        self,
        endpoint: str,
        on_up: Callable[[], None],
        on_down: Callable[[], None],
        on_message: Callable[[list[bytes]], None],
        *,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
        max_frame: int = -1,
    ) -> None:
        self._endpoint = endpoint
        self._on_up = on_up
        self._on_down = on_down
        self._loop = asyncio.get_running_loop()
        self._shaken = False
        self.strange: bool = False
        """True if the last connection was lost before its handshake: the listener is a socket of another
        kind, or a server that is full or turns this user away."""
        self._delay = _RECONNECT
        self._retry: asyncio.TimerHandle | None = None
        self._dealer = open_dealer(context or zmq.Context.instance(), max_frame=max_frame)
        self._monitor = DrainSocket(self._loop, self._dealer.get_monitor_socket(_EVENTS), self._noticed)
        limits = DrainLimits(least_frames=_LEAST_FRAMES)
        self.socket: DrainSocket = DrainSocket(self._loop, self._dealer, on_message, limits=limits)
        self.socket.connect(endpoint)

    def _noticed(self, frames: list[bytes]) -> None:
        # A uint16 in the byte order of the host leads (zmq_socket_monitor(3)).
        event = int.from_bytes(frames[0][:2], sys.byteorder)
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            if self._retry is None:  # else it is about a connection that was given up
                self._shaken, self.strange = True, False
                self._delay = _RECONNECT
                self._on_up()
            return
        lost = event == zmq.EVENT_DISCONNECTED
        try:
            if lost:
                self._shaken, self.strange = False, not self._shaken
                self.socket.drain_now()
            elif self._retry is None:
                self.strange = False  # nothing listens there
        finally:  # also if a message's handler raised: libzmq makes no connection by itself
            self._give_up()
            if lost:
                self._on_down()

    def _give_up(self) -> None:
        """Drop the connection, with all that is queued for its server, and make another one soon."""
        if self._retry is not None or self.socket.closed:
            return
        self.socket.disconnect(self._endpoint)
        longest = _STRANGE_MAX if self.strange else _RECONNECT_MAX
        delay = min(self._delay, longest) + random.random() * _RECONNECT  # noqa: S311
        self._retry = self._loop.call_later(delay, self._connect)
        self._delay = min(2 * self._delay, longest)

    def _connect(self) -> None:
        self._monitor.drain_now()  # what it still says is about the connection before
        self._retry = None
        self.socket.connect(self._endpoint)

    def close(self) -> None:
        """Close the socket."""
        if self._retry is not None:
            self._retry.cancel()
        if not self._monitor.closed:
            self._dealer.disable_monitor()
            self._monitor.close()
        self.socket.close()
