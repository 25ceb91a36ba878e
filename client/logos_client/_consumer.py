"""Delivery of events to the app: one after another, by iteration or by callbacks."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from logos_client._stream import AppStreamReader
from logos_client.events import ChannelSegmentReceived, Event, TakenOver, event_classes

Callback = Callable[[Any], Awaitable[None] | None]
SegmentOpener = Callable[[ChannelSegmentReceived], Awaitable[bool]]


class EventConsumer:
    """Hands the events of a stream to one consumer.

    `settle()` is called after each handled event (credit and ack may be due). `open_segment` decrypts a
    segment and gives it back to the server; False: the app has no hooks for it, and gets the event.
    """

    def __init__(
        self, stream: AppStreamReader, settle: Callable[[], None], open_segment: SegmentOpener
    ) -> None:
        self._stream = stream
        self._settle = settle
        self._open_segment = open_segment
        self._callbacks: dict[type[Any], list[Callback]] = {}
        self._waiter: asyncio.Future[None] | None = None
        self._dispatcher: asyncio.Task[None] | None = None
        self._iterating = False
        self._taking = False
        self._taker: asyncio.Task[Any] | None = None
        self._ended = False

    def wake(self) -> None:
        """Notify of a new event in the stream."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def end(self) -> None:
        """End the stream behind what is queued."""
        self._ended = True
        self.wake()

    # -- iteration -------------------------------------------------------------------------------------------

    def next_queued(self) -> Event | None:
        """Return what `next` would, if it need not wait: usually an event is queued, and a wait that may be
        cancelled costs more than taking it. None: call `next`."""
        if not self._iterating or self._taking or self._callbacks:
            return None
        self._taker = asyncio.current_task()
        event = self._take_now()
        if type(event) is ChannelSegmentReceived:
            self._stream.put_back()
            return None
        return event

    async def next(self) -> Event | None:
        """Return the next event that no callback took, or None at the end.

        The previous event counts as handled.
        """
        event = self.next_queued()
        if event is not None:
            return event
        self._taker = asyncio.current_task()
        if not self._iterating:
            await self._take_over_from_callbacks()
        if self._taking:
            raise RuntimeError("another task is waiting for the next event already")
        self._taking = True
        try:
            while True:
                event = await self._take()
                if event is None:
                    return None
                callbacks = self._callbacks.get(type(event))
                if not callbacks:
                    return event
                await self._call(callbacks, event)
        finally:
            self._taking = False

    def queued(self, most: int) -> list[Event]:
        """Return up to so many events that are queued behind the one that `next` returned. All but the last
        count as handled, but return their credit with the next call of `next`."""
        found: list[Event] = []
        stream = self._stream
        while len(found) < most and len(stream) and not (self._ended or self._callbacks):
            event = stream.take()
            if event is None or type(event) is ChannelSegmentReceived:
                stream.put_back()  # `next` opens it
                break
            found.append(event)
            self._ended = type(event) is TakenOver
        return found

    def settled(self) -> bool:
        """Return whether the app is done with the event that it holds, as far as can be seen from here.

        It is if the task that took it is the one that asks, or has ended without an exception. A task that
        is still running, was cancelled or has failed may have stopped halfway: the event is delivered
        again.
        """
        taker = self._taker
        if taker is None or taker is asyncio.current_task():
            return taker is not None
        return taker.done() and not taker.cancelled() and taker.exception() is None

    async def _take_over_from_callbacks(self) -> None:
        dispatcher = self._dispatcher
        if dispatcher is not None and dispatcher is asyncio.current_task():
            raise RuntimeError("a callback cannot wait for the next event")
        self._iterating = True
        self.wake()
        if dispatcher is not None:
            await dispatcher

    async def _take(self) -> Event | None:
        while True:
            event = self._take_now()
            if type(event) is ChannelSegmentReceived and await self._opened(event):
                continue
            if event is not None:
                return event
            if self._ended:
                return None
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None

    async def _opened(self, event: ChannelSegmentReceived) -> bool:
        try:
            return await self._open_segment(event)
        except BaseException:
            # Cancelled: it is not handled, and must not be acknowledged with the next event.
            self._stream.put_back()
            raise

    def _take_now(self) -> Event | None:
        """Return the next event if one is queued; the previous one counts as handled either way."""
        event = self._stream.take()
        self._settle()
        if type(event) is TakenOver:
            self._ended = True
        return event

    # -- callbacks -------------------------------------------------------------------------------------------

    def add(self, kind: object, callback: Callback) -> Callable[[], None]:
        """Call `callback` with each event of the class or union `kind`. Return a function that undoes it.

        Raises TypeError if `kind` is anything else, or `callback` is not callable.
        """
        kinds = event_classes(kind)
        if not callable(callback):
            raise TypeError(f"a callback is a function, not {type(callback).__name__}")
        for one in kinds:
            self._callbacks.setdefault(one, []).append(callback)
        if self._dispatcher is None and not self._iterating:
            self._dispatcher = asyncio.get_running_loop().create_task(self._dispatch())

        def remove() -> None:
            for one in kinds:
                callbacks = self._callbacks.get(one, [])
                if callback in callbacks:
                    callbacks.remove(callback)

        return remove

    async def _dispatch(self) -> None:
        """Run callbacks without an iteration: events that none of them wants are skipped."""
        self._taker = asyncio.current_task()
        while not self._iterating:
            if not len(self._stream):
                self._stream.handled()
                self._settle()
                if self._ended:
                    return
                self._waiter = asyncio.get_running_loop().create_future()
                try:
                    await self._waiter
                finally:
                    self._waiter = None
                continue
            event = await self._take()
            if event is not None:
                await self._call(self._callbacks.get(type(event), ()), event)
        self._stream.handled()
        self._settle()

    async def _call(self, callbacks: Any, event: Event) -> None:
        for callback in tuple(callbacks):
            try:
                result = callback(event)
                if inspect.isawaitable(result):
                    await result
            except Exception as error:
                # The app's error, not the stream's: report it to the loop's handler and continue.
                # Do not pass the event: that handler logs what it gets, and payloads do not belong in logs.
                message = f"callback for {event.kind} failed"
                asyncio.get_running_loop().call_exception_handler({"message": message, "exception": error})

    async def close(self) -> None:
        """Stop the callbacks and end the iteration."""
        self.end()
        dispatcher = self._dispatcher
        if dispatcher is not None and dispatcher is not asyncio.current_task():
            dispatcher.cancel()
            await asyncio.gather(dispatcher, return_exceptions=True)
