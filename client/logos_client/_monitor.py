"""Tells when a socket's connection can be used and when it is lost.

A DEALER says neither, and a request sent on the way between two servers would be answered by nobody.
libzmq's own monitor knows; its events are in order.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Final

import zmq

from logos_sockets.drain import DrainSocket

_EVENTS: Final = int(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
# The event number is a C uint16 of this machine.


class ConnectionMonitor:
    """Calls `on_up()` after each completed handshake of `socket` and `on_down()` after each loss.

    Made before the socket connects, closed before the socket is.
    """

    def __init__(
        self, socket: zmq.Socket[bytes], on_up: Callable[[], None], on_down: Callable[[], None]
    ) -> None:
        self._monitored = socket
        self._on_up = on_up
        self._on_down = on_down
        self._shaken = False
        self.strange: bool = False
        """The last connection was lost before its handshake: what listens there is a socket of another kind.
        libzmq then gives up, and does not connect again."""
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
