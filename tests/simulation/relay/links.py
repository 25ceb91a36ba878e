"""What lies between two nodes: latency by distance, bandwidth of the uplinks, the cost of packets."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, dist
from random import Random
from typing import Final, NamedTuple

from kernel_proc.relay.cache import CachedMessage
from tests.simulation.relay.events import EventQueue

SEGMENT: Final = 1448
"""Payload of a TCP segment on Ethernet with timestamps."""
SEGMENT_OVERHEAD: Final = 52 + 52 / 2
"""IPv4 and TCP headers with timestamps, and an acknowledgement for every second segment."""
FRAME_OVERHEAD: Final = 12 + 18
"""A yamux header, and the length and tag of a noise message."""


def wire_size(size: int) -> int:
    """Bytes on the wire of so many bytes written at once to a stream."""
    size += FRAME_OVERHEAD
    return size + round(ceil(size / SEGMENT) * SEGMENT_OVERHEAD)


class Frame(NamedTuple):
    """What one node sends another: a message with the hops it has made, or the body of a control RPC."""

    content: CachedMessage | bytes
    hops: int
    size: int
    """Bytes on the wire."""


@dataclass(frozen=True, slots=True)
class LinkModel:
    """Nodes lie at random on a square; the latency between two grows with their distance.

    The default is a one-way latency of 30 to 170 ms, 103 ms on average, as between hosts spread over the
    world. Equal in both directions and constant: TCP keeps the order anyway.
    """

    least: float = 0.030
    most: float = 0.170
    bandwidth: float = 50e6 / 8
    """Uplink of a node in bytes/s."""
    processing: float = 0.001
    """Seconds from the arrival of bytes to what the node makes of them."""

    def place(self, rng: Random) -> tuple[float, float]:
        """Where a node lies."""
        return rng.random(), rng.random()

    def latency(self, one: tuple[float, float], other: tuple[float, float]) -> float:
        """Seconds one way."""
        return self.least + (self.most - self.least) * dist(one, other) / 2**0.5


class Uplink:
    """Sends the frames of one node one after another, control before messages.

    `deliver(to, frame)` is called when the last byte has left. A frame that the receiver no longer wants by
    then (`wanted`) is left out, as the send queue of a peer does.
    """

    def __init__(
        self,
        events: EventQueue,
        bandwidth: float,
        wanted: Callable[[str, Frame], bool],
        deliver: Callable[[str, Frame], None],
    ) -> None:
        self._events = events
        self._bandwidth = bandwidth
        self._wanted = wanted
        self._deliver = deliver
        self._control: deque[tuple[str, Frame]] = deque()
        self._messages: deque[tuple[str, Frame]] = deque()
        self._busy = False
        self.sent_bytes = 0
        self.control_bytes = 0

    def send(self, to: str, frame: Frame) -> None:
        """Queue a frame."""
        queue = self._control if isinstance(frame.content, bytes) else self._messages
        queue.append((to, frame))
        if not self._busy:
            self._next()

    def clear(self) -> None:
        """Drop what waits: the node is gone."""
        self._control.clear()
        self._messages.clear()

    def _next(self) -> None:
        self._busy = False
        while self._control or self._messages:
            to, frame = (self._control or self._messages).popleft()
            if not self._wanted(to, frame):
                continue
            self._busy = True
            self.sent_bytes += frame.size
            if isinstance(frame.content, bytes):
                self.control_bytes += frame.size
            self._events.after(frame.size / self._bandwidth, self._sent, to, frame)
            return

    def _sent(self, to: str, frame: Frame) -> None:
        self._deliver(to, frame)
        self._next()
