"""Report when a socket's connection becomes usable and when it is lost.

A DEALER reports neither, and a request sent between two servers would never be answered. libzmq's socket
monitor does, in order (zmq_socket_monitor(3)).
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Final

import zmq

from logos_sockets.drain import DrainSocket

_EVENTS: Final = int(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
# The event number is a uint16 in host byte order (zmq_socket_monitor(3)).


class ConnectionMonitor:
    """Calls `on_up()` after each completed handshake of `socket` and `on_down()` after each loss.

    Create it before the socket connects; close it before the socket.
    """

    def __init__(
        self, socket: zmq.Socket[bytes], on_up: Callable[[], None], on_down: Callable[[], None]
    ) -> None:
        self._monitored = socket
        self._on_up = on_up
        self._on_down = on_down
        self._shaken = False
        self.strange: bool = False
        """True if the last connection was lost before its handshake: the listener is a socket of another
        kind. libzmq then gives up and does not reconnect."""
        self._drain = DrainSocket(
            asyncio.get_running_loop(), socket.get_monitor_socket(_EVENTS), self._on_message
        )

    def _on_message(self, frames: list[bytes]) -> None:
        event = int.from_bytes(frames[0][:2], sys.byteorder)
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._shaken, self.strange = True, False
            self._on_up()
        elif event == zmq.EVENT_DISCONNECTED:
            self._shaken, self.strange = False, not self._shaken
            self._on_down()

    def close(self) -> None:
        """Stop watching."""
        if not self._drain.closed:
            self._monitored.disable_monitor()
            self._drain.close()
