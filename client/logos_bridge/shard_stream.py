"""One shard on its way to JetStream: what is published, stored, and saved as position."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

import nats.errors

from logos_bridge.congestion import CongestionWindow, backoff
from logos_bridge.duplicates import DuplicateGuard
from logos_bridge.figures import BridgeFigures
from logos_bridge.jetstream import JetStreamLink
from logos_bridge.positions import OutPosition, Span
from logos_bridge.publish_window import PublishWindow

_ANSWER_SECONDS: Final = 5.0
_COUNT: Final = 2_048


@dataclass(slots=True, eq=False)
class Publication:
    """A message between the kernel's stream and JetStream's, with its place in the former."""

    epoch: bytes
    seq: int
    time_ns: int
    subject: str = ""
    payload: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    awaited: str = ""
    """Ticket of the answer that it waits for."""
    sending: bool = False
    sent_at: float = 0.0
    place: int = 0
    """Ticket of its place in the congestion window."""


class ShardStream:
    """Publishes in order and moves the position over what is stored. All calls from one loop."""

    def __init__(
        self, link: JetStreamLink, figures: BridgeFigures, shard: int, subject: str, window: float, size: int
    ) -> None:
        self.shard = shard
        self.subject = subject
        """What precedes the content topic."""
        self.guard = DuplicateGuard(window)
        self._position = OutPosition(epoch=b"", seq=0, time_ns=0)
        self._newest: Publication | None = None
        """The last one that the position is to move over: once for many of them."""
        self.saved: OutPosition | None = None
        self.revision = 0
        self.read_ns = 0
        """When the last event came that was read, stored or not."""
        self.covered_ns = 0
        """Until when the kernel's coverage was looked at."""
        self._link = link
        self._figures = figures
        self._window: PublishWindow[Publication] = PublishWindow(_COUNT, size)
        self._loop = asyncio.get_running_loop()
        self._room = asyncio.Event()
        self.congestion = CongestionWindow(_COUNT)
        self._lost = asyncio.Event()
        """Set when something has to be published again."""
        self._repeating = False
        """Whether something is, which nothing new may pass: that would only be further load."""

    @property
    def position(self) -> OutPosition:
        """Up to where everything is stored."""
        if (newest := self._newest) is not None:
            self._newest = None
            self._position = replace(
                self._position, epoch=newest.epoch, seq=newest.seq, time_ns=newest.time_ns
            )
        return self._position

    @position.setter
    def position(self, position: OutPosition) -> None:
        self._newest = None
        self._position = position

    @property
    def idle(self) -> bool:
        """Whether everything that was read is stored."""
        return not self._window

    @property
    def pending(self) -> int:
        """Messages that are not stored yet."""
        return len(self._window)

    async def publish(self, message: Publication) -> None:
        """Publish; what is not answered is published again by `run`."""
        size = len(message.payload) + 512
        while self._repeating or not self._window.has_room(size):
            self._room.clear()
            await self._room.wait()
        await self._send(self._window.add(message, size))

    def passed(self, epoch: bytes, seq: int, time_ns: int) -> None:
        """Note an event that needs no publishing."""
        self._stored(self._window.add(Publication(epoch, seq, time_ns), 0))

    def expire(self, *, lost: bool) -> None:
        """Give up what has no answer for too long, or `lost` it with its connection. Call it every second."""
        now = self._loop.time()
        for slot in self._window.unstored():
            message: Publication = slot.item
            waits = message.awaited and not message.sending
            if waits and (lost or now - message.sent_at >= _ANSWER_SECONDS):
                self._give_up(message)

    async def run(self) -> None:
        """Publish again what was not stored, oldest first, until cancelled."""
        failures = 0
        while True:
            await self._lost.wait()
            failures += 1
            await asyncio.sleep(backoff(failures))
            await self._link.up()
            self._lost.clear()
            for slot in self._window.unstored():
                message: Publication = slot.item
                if not message.awaited and not message.sending:
                    self._link.counters.retries += 1
                    await self._send(slot)
                    if self._lost.is_set():
                        break  # the rest would fare no better
            else:
                failures, self._repeating = 0, False
                self._room.set()

    async def _send(self, slot: Any) -> None:
        message: Publication = slot.item
        message.sending = True
        try:
            message.place = await self.congestion.enter()
            message.sent_at = self._loop.time()
            if not self._link.connected:  # what the library would buffer meanwhile has another bound
                self._unanswered(message)
                return
            acks = self._link.acks
            message.awaited = ticket = acks.expect(partial(self._answered, slot))
            try:
                await acks.publish(ticket, message.subject, message.payload, message.headers)
            except (nats.errors.Error, OSError) as error:
                self._failed(f"{type(error).__name__}: {error}")
                if message.awaited:
                    self._give_up(message)
        finally:
            message.sending = False
            if not message.awaited and not slot.done:  # refused meanwhile, when it could not be repeated
                self._lost.set()

    def _answered(self, slot: Any, refusal: str, known: bool) -> None:
        message: Publication = slot.item
        if refusal:
            self._failed(refusal)
            self._unanswered(message)
            return
        message.awaited = ""
        self.congestion.leave(message.place, answered=True)
        self._figures.count("bridge_out_messages", "result", "duplicate" if known else "stored")
        self._stored(slot)

    def _give_up(self, message: Publication) -> None:
        self._link.acks.forget(message.awaited)
        self._unanswered(message)

    def _unanswered(self, message: Publication) -> None:
        message.awaited = ""
        self.congestion.leave(message.place, answered=False)
        self._repeating = True
        self._lost.set()

    def _failed(self, reason: str) -> None:
        self._figures.facts["natsError"] = reason

    def _stored(self, slot: Any) -> None:
        last = self._window.stored(slot)
        if last is not None:
            self._newest = last
            self._room.set()

    def clock_stepped(self, by: int) -> None:
        """Move the labels to the clock that was set."""
        self.position = self.position.moved(by)
        self.read_ns += by
        self.covered_ns += by
        self.guard.forget()
        for slot in self._window.unstored():
            slot.item.time_ns += by

    def lost(self, *spans: Span) -> None:
        """Note time spans that stores have to fill; they are saved with the position."""
        self.position = self.position.missing(*spans)
        self._figures.count("bridge_out_lost_events", by=len(spans))
