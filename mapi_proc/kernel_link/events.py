"""The kernel's live events: the SUB socket, and the path of each frame to its stream's tracker.

Runs once per message, in the socket's own callback: no task and no Future (a Future per message is what makes
`zmq.asyncio` slow).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Protocol

import zmq

from ipc_schema.kernel.events import (
    HEALTH_TOPIC,
    HeaderError,
    HealthEvent,
    Heartbeat,
    MessageEvent,
    UnknownEvent,
    decode_header,
)
from ipc_schema.kernel.records import NodeHealth
from ipc_schema.steady import SteadyClock
from logos_sockets import open_subscriber
from logos_sockets.drain import DrainLimits, DrainSocket
from mapi_proc.kernel_link.tracker import Live, StreamTracker

log = logging.getLogger(__name__)

_SUB_HWM: Final = 1_000


class EventSink(Protocol):
    """Receives the events."""

    def kernel_health(self, health: NodeHealth) -> None:
        """Take the kernel's health report."""

    def message(self, shard: int, event: MessageEvent, payload: bytes) -> None:
        """Take the next message in order; its tracker has advanced to it."""


class EventSocket:
    """A SUB socket on the kernel's health topic and on the followed streams. `open` it first."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        resync: Callable[[], None],
        counters: dict[str, int],
        steady: SteadyClock,
    ) -> None:
        """Create it on a running loop.

        `resync()` is called when a lease is to be acquired again: events were lost and a tracker waits for a
        replay, or coverage changed. Counts `gaps`, `bad_headers` and `dropped_live`.
        """
        self._steady = steady
        self._shift = steady.shift
        self.sink: EventSink | None = None
        self._context = context
        self._resync = resync
        self._counters = counters
        self._loop = asyncio.get_running_loop()
        self._endpoint = ""
        self._socket: DrainSocket | None = None
        self.reading = True
        """False while paused."""
        self._subscribed: set[bytes] = set()
        self._trackers: dict[bytes, tuple[int, StreamTracker]] = {}
        self.heard = self._loop.time()
        """Time of the kernel's last event, on the loop's clock."""

    def open(self, endpoint: str) -> None:
        """Connect to the endpoint. No-op if already connected to it."""
        if endpoint == self._endpoint:
            return
        self.close()
        self._endpoint = endpoint
        self._socket = DrainSocket(
            asyncio.get_running_loop(),
            open_subscriber(self._context, endpoint, hwm=_SUB_HWM),
            self._event,
            limits=DrainLimits(batch=128, least_frames=3),
        )
        if not self.reading:
            self._socket.pause()
        self._subscribe(HEALTH_TOPIC, on=True)

    def close(self) -> None:
        """Close the socket and forget all streams."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._endpoint = ""
        self._subscribed.clear()
        self._trackers.clear()

    def pause(self) -> None:
        """Stop reading. libzmq drops what does not fit; a replay brings it back."""
        self.reading = False
        if self._socket is not None:
            self._socket.pause()

    def resume(self) -> None:
        """Continue reading."""
        self.reading = True
        if self._socket is not None:
            self._socket.resume()

    def follow(self, topic: bytes, shard: int, tracker: StreamTracker) -> None:
        """Subscribe to a stream and feed its events to the tracker."""
        self._trackers[topic] = (shard, tracker)
        self._subscribe(topic, on=True)

    def leave(self, topic: bytes) -> None:
        """Unsubscribe from a stream."""
        self._trackers.pop(topic, None)
        self._subscribe(topic, on=False)

    def _subscribe(self, topic: bytes, *, on: bool) -> None:
        if self._socket is None or (topic in self._subscribed) == on:
            return
        if on:
            self._subscribed.add(topic)
            self._socket.subscribe(topic)
        else:
            self._subscribed.discard(topic)
            self._socket.unsubscribe(topic)

    def _event(self, frames: list[bytes]) -> None:
        try:
            topic, header, payload = frames
            event = decode_header(header)
        except (ValueError, HeaderError) as error:
            self._counters["bad_headers"] += 1
            log.debug("invalid event from the kernel: %s", error)
            return
        sink = self.sink
        assert sink is not None, "the listener is given before the first event"
        route = self._trackers.get(topic)
        if route is None:
            self.heard = self._loop.time()
            if type(event) is HealthEvent:
                sink.kernel_health(event.health)
            return
        shard, tracker = route
        if type(event) is MessageEvent:
            verdict = tracker.live(event[0], event[1], event[2], event[3] + self._shift)
            if verdict is Live.DELIVER:
                sink.message(shard, event, payload)
                return
        elif type(event) is Heartbeat:
            self.heard = self._loop.time()
            self._shift = self._steady.shift  # each second: once per message would cost too much
            verdict = tracker.heartbeat(
                event.instance, event.epoch, event.seq, event.time_ns + self._shift, event.covered
            )
        elif type(event) is UnknownEvent:
            # A kind from a newer kernel: it still takes a seq, so skipping it would look like a gap.
            verdict = tracker.live(event.instance, event.epoch, event.seq, event.time_ns + self._shift)
            if verdict is Live.DELIVER:
                return
        else:
            return
        if type(event) is not Heartbeat:
            self._counters["dropped_live"] += tracker.hold(event, payload)
        if verdict is Live.RESYNC:
            self._counters["gaps"] += 1
            self._resync()
        elif verdict is Live.RENEW:
            self._resync()
