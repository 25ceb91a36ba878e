"""One shard on its way to JetStream: what is published, stored, and saved as position."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final

import nats.errors
from nats.js import api

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
    answer: asyncio.Future[api.PubAck] | None = None
    sending: bool = False
    sent_at: float = 0.0
    ticket: int = 0


class ShardStream:
    """Publishes in order and moves the position over what is stored. All calls from one loop."""

    def __init__(
        self, link: JetStreamLink, figures: BridgeFigures, shard: int, subject: str, window: float, size: int
    ) -> None:
        self.shard = shard
        self.subject = subject
        """What precedes the content topic."""
        self.guard = DuplicateGuard(window)
        self.position = OutPosition(epoch=b"", seq=0, time_ns=0)
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
        self._congestion = CongestionWindow(_COUNT)
        self._lost = asyncio.Event()
        """Set when something has to be published again."""
        self._repeating = False
        """Whether something is, which nothing new may pass: that would only be further load."""

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

    def expire(self, *, reconnected: bool) -> None:
        """Give up what has no answer for too long, or none since another connection. Call it every second."""
        now = self._loop.time()
        for slot in self._window.unstored():
            message: Publication = slot.item
            if message.answer is not None and (reconnected or now - message.sent_at >= _ANSWER_SECONDS):
                message.answer.cancel()
                self._unanswered(message)

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
                if message.answer is None and not message.sending:
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
            message.ticket = await self._congestion.enter()
            message.sent_at = self._loop.time()
            if not self._link.connected:  # what the library would buffer meanwhile has another bound
                self._unanswered(message)
                return
            try:
                message.answer = await self._link.js.publish_async(
                    message.subject, message.payload, headers=message.headers
                )
            except (nats.errors.Error, OSError) as error:
                self._failed(error)
                self._unanswered(message)
            else:
                message.answer.add_done_callback(self._answered(slot, message.answer))
        finally:
            message.sending = False

    def _answered(
        self, slot: Any, answer: asyncio.Future[api.PubAck]
    ) -> Callable[[asyncio.Future[api.PubAck]], None]:
        def done(_: asyncio.Future[api.PubAck]) -> None:
            message: Publication = slot.item
            if message.answer is not answer:
                return  # given up meanwhile
            error = answer.exception()
            if error is not None:
                self._failed(error)
                self._unanswered(message)
                return
            self._congestion.leave(message.ticket, answered=True)
            duplicate = answer.result().duplicate
            self._figures.count("bridge_out_messages", "result", "duplicate" if duplicate else "stored")
            self._stored(slot)

        return done

    def _unanswered(self, message: Publication) -> None:
        message.answer = None
        self._congestion.leave(message.ticket, answered=False)
        self._repeating = True
        self._lost.set()

    def _failed(self, error: BaseException) -> None:
        self._figures.told["natsError"] = f"{type(error).__name__}: {error}"

    def _stored(self, slot: Any) -> None:
        last = self._window.stored(slot)
        if last is not None:
            self.position = replace(
                self.position,
                epoch=last.epoch,
                seq=last.seq,
                time_ns=last.time_ns,
            )
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
