"""The blocking form of `logos_client.MessagingClient`. For threads, forks and Ctrl-C see
`logos_client.blocking`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType, UnionType
from typing import Any, Self, TypeVar, overload

import zmq

from ipc_schema.hello import SeenPosition
from logos_client import messaging
from logos_client._connection import DEFAULT_TIMEOUT
from logos_client.blocking._base import EventTap, open_client
from logos_client.blocking._callbacks import CallbackThread
from logos_client.blocking._messaging_calls import MessagingCalls
from logos_client.blocking._portal import Portal
from logos_client.events import Event
from logos_client.exceptions import ClosedError, ForkedError
from logos_client.messaging import DEFAULT_CREDIT, AckMode

__all__ = ["MessagingClient"]

E = TypeVar("E")
Callback = Callable[[E], object]


class MessagingClient(MessagingCalls):
    """An app's connection to a Messaging API. Created by `connect`.

    It reconnects by itself as often as needed: the stream continues after the last event seen, an ephemeral
    app's content topics are subscribed again, and what cannot be recovered is reported as an event
    (`LinkRestored`, `EventsDropped`, `MessagesMissed`). Duplicates are dropped by (stream id, seq).
    """

    def __init__(self, portal: Portal, client: messaging.MessagingClient) -> None:
        """Internal: use `connect`."""
        super().__init__(portal)
        self._client = client
        self._callbacks = CallbackThread(f"logos {client.name} callbacks")
        self._events: EventTap[Event] = EventTap(portal, _taker(client))
        portal.on_close = _closer(client, self._callbacks)

    def __repr__(self) -> str:
        return f"<blocking.{repr(self._client)[1:]}"

    # -- opening ---------------------------------------------------------------------------------------------

    @classmethod
    def connect(
        cls,
        endpoint: str | Path,
        *,
        name: str | None = None,
        takeover: bool = False,
        credit: int = DEFAULT_CREDIT,
        ack: AckMode = "auto",
        seen: SeenPosition | None = None,
        timeout: float | None = DEFAULT_TIMEOUT,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
    ) -> Self:
        """Connect to a Messaging API.

        `endpoint`: `ipc://…`, `tcp://…`, or a node's run directory. `name`: a durable app
        (`[a-z0-9._-]{1,64}`): its subscriptions, stream and position outlive this program; without one the
        app ends with its connection. `takeover`: end another live connection of that name. `credit`: bytes
        of events that may be queued here or in flight. `ack`: `"auto"` acknowledges an event when the next
        one is requested, its callbacks have returned, or the client is left normally (see `close`);
        `"manual"` leaves it to `ack`. `seen`: the last event that this app received before, and the
        `instance` that it came from: a Messaging API whose files were put back in an older state notices by
        it. `timeout`: seconds to wait for the Messaging API, None for ever.

        Raises `NotReadyError` (no server in time), `ConflictError` (the name is in use),
        `UnsupportedVersionError`, `UnauthorisedError`, `BadRequestError`.
        """

        async def open_app() -> messaging.MessagingClient:
            return await messaging.MessagingClient.connect(
                endpoint,
                name=name,
                takeover=takeover,
                credit=credit,
                ack=ack,
                seen=seen,
                timeout=timeout,
                context=context,
            )

        return cls(*open_client(f"app {name or ''}".rstrip(), open_app))

    # -- closing ---------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Acknowledge what was handled (mode `auto`) and disconnect; a named app lives on in the Messaging
        API.

        The last event taken counts as handled too if the thread that took it calls this, but not while an
        exception propagates (in `except` and `finally`): it is delivered again then. Leaving `with` does
        the same. Idempotent, from any thread.
        """
        self._leave(done=sys.exception() is None)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave(done=error is None)

    def _leave(self, *, done: bool) -> None:
        if done and self._events.settled():
            self._portal.on_close = _closer(self._client, self._callbacks, done=True)
        super().close()

    # -- what is known ---------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether the Messaging API is connected now (not whether its node has peers: see `status`)."""
        return self._portal.open and self._client.connected

    # -- events ----------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        try:
            return self.next_event()
        except ForkedError:
            raise
        except ClosedError:
            raise StopIteration from None

    def next_event(self, timeout: float | None = None) -> Event:
        """Return the next event. Asking for it marks the previous one as handled.

        With several threads that take turns, that one may be another thread's: use `ack="manual"` then.
        Raises `DeadlineError` if there is none within `timeout` seconds, `ClosedError` if there can be no
        more, RuntimeError in a callback, or while another thread waits for the next event.
        """
        if self._callbacks.inside:
            raise RuntimeError("a callback cannot wait for the next event")
        return self._events.next(timeout)

    @overload
    def on(self, kind: type[E]) -> Callable[[Callback[E]], Callback[E]]: ...
    @overload
    def on(self, kind: type[E], callback: Callback[E]) -> Callable[[], None]: ...
    @overload
    def on(self, kind: UnionType) -> Callable[[Callback[Any]], Callback[Any]]: ...
    @overload
    def on(self, kind: UnionType, callback: Callback[Any]) -> Callable[[], None]: ...
    def on(self, kind: type[E] | UnionType, callback: Callback[E] | None = None) -> Any:
        """Call a function with each event of a class, or of a union of them (`Event` is all), in the client's
        callback thread.

            remove = client.on(MessageReceived, handle)

            @client.on(ConnectionStatusChange)
            def changed(event): ...

        Callbacks run one after another, in the events' order, so a slow one delays the stream, within the
        credit. Without an iteration they run in the background and events without a callback are skipped;
        during an iteration they run as part of it, and it yields the other events. Exceptions go to
        `threading.excepthook`; the event counts as handled. `close` does not wait for the callback that is
        running.
        """
        if callback is None:

            def decorate(function: Callback[E]) -> Callback[E]:
                self._add(kind, function)
                return function

            return decorate
        return self._add(kind, callback)

    def _add(self, kind: type[E] | UnionType, callback: Callback[E]) -> Callable[[], None]:
        if inspect.iscoroutinefunction(callback):
            raise TypeError("a callback of a blocking client is a plain function")
        client, callbacks, portal = self._client, self._callbacks, self._portal

        async def deliver(event: E) -> None:
            await callbacks.run(callback, event)

        async def add() -> Callable[[], None]:
            return client.on(kind, deliver)

        remove = portal.call(add)

        def remove_soon() -> None:
            portal.post(remove)

        return remove_soon


def _taker(client: messaging.MessagingClient) -> Any:
    async def take() -> Event | None:
        return await anext(client, None)

    return take


def _closer(client: messaging.MessagingClient, callbacks: CallbackThread, *, done: bool = False) -> Any:
    async def close() -> None:
        try:
            await client._leave(done=done)  # noqa: SLF001 (one client in two forms)
        finally:
            callbacks.end()

    return close
