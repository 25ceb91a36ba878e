"""Fates of sends: from the journal of the bridge's app to the open sends that they belong to.

An event is acknowledged once what it says is stored in NATS: until then the journal brings it again. Sends
whose fate cannot come any more end as `unconfirmed`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

from logos_bridge.figures import BridgeFigures
from logos_bridge.open_sends import OpenSend, OpenSends
from logos_bridge.outcomes import Doubts, NewestOutcomes, outcome_of, position_of
from logos_bridge.publish_window import PublishWindow
from logos_client import Position
from logos_client.events import EventsDropped, LinkLost, LinkRestored
from logos_client.exceptions import LogosError
from logos_client.messaging import MessagingClient

log = logging.getLogger(__name__)

_ACK_SECONDS: Final = 0.5
_EVENTS: Final = 4_096
_EVENT_BYTES: Final = 32 << 20
_SETTLE_SECONDS: Final = 5.0
_UNKNOWN: Final = "the outcome is gone: the send was another bridge's when it came, or the journal was full"


class FateJournal:
    """Reads the journal. `follow`, `acknowledge` and `settle` work until they are cancelled."""

    def __init__(
        self,
        client: MessagingClient,
        sends: OpenSends,
        figures: BridgeFigures,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        hand_over: Callable[[OpenSend], Coroutine[Any, Any, None]],
    ) -> None:
        """`hand_over` gives a send to the Messaging API, again after it has lost its database."""
        self._client = client
        self._sends = sends
        self._figures = figures
        self._spawn = spawn
        self._hand_over = hand_over
        self._events: PublishWindow[Position] = PublishWindow(_EVENTS, _EVENT_BYTES)
        self._room = asyncio.Event()
        self._handled: Position | None = None
        self.outcomes = NewestOutcomes()
        """Also of sends that are not open here yet."""
        self._dropped_ns = 0
        """When the journal last reported dropped events."""

    async def follow(self) -> None:
        """Give each fate to its send."""
        async for event in self._client:
            match event:
                case LinkLost():
                    self._figures.trouble("mapi", event.reason)
                    continue
                case LinkRestored():
                    self._figures.trouble("mapi", "")
                    if not event.resumed:
                        log.warning("the Messaging API lost its database: open sends are handed over again")
                        for send in self._sends.all():
                            self._spawn(self._hand_over(send))
                    continue
                case EventsDropped():
                    self._dropped_ns = time.time_ns()
            position = position_of(event)
            if position is None:
                continue
            while not self._events.has_room(256):
                self._room.clear()
                await self._room.wait()
            slot = self._events.add(position, 256)
            outcome = outcome_of(event)
            if outcome is not None:
                self.outcomes.add(*outcome)
            found = self._sends.get(outcome[0]) if outcome is not None else None
            if outcome is None or found is None:
                self._stored(slot)
            else:
                self._spawn(self._report(found, outcome[1], outcome[2], slot))

    async def _report(self, send: OpenSend, fate: str, reason: str, slot: Any) -> None:
        await self._sends.report(send, fate, reason)
        self._stored(slot)

    def _stored(self, slot: Any) -> None:
        handled = self._events.stored(slot)
        if handled is not None:
            self._handled = handled
            self._room.set()

    async def acknowledge(self) -> None:
        """Acknowledge events whose fates are stored; what is not is delivered again after a restart."""
        while True:
            await asyncio.sleep(_ACK_SECONDS)
            position, self._handled = self._handled, None
            if position is None:
                continue
            try:
                await self._client.ack(position)
            except LogosError as error:
                log.debug("acknowledging: %s", error)
                self._handled = self._handled or position

    async def settle(self) -> None:
        """End the sends whose outcome will not come."""
        doubts = Doubts()
        while True:
            await asyncio.sleep(_SETTLE_SECONDS)
            asked = {
                send.record.request_id: send.accepted_ns
                for send in self._sends.all()
                if send.accepted_ns and (send.adopted or send.accepted_ns < self._dropped_ns)
            }
            if not asked:
                continue
            try:
                pending = await self._client.pending()
            except LogosError as error:
                log.debug("sends without an outcome cannot be looked for: %s", error)
                continue
            for request_id in doubts.look(asked, pending):
                if (send := self._sends.get(request_id)) is not None:
                    await self._sends.report(send, "unconfirmed", _UNKNOWN)
