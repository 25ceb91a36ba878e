"""The blocking form of `logos_client.MessagingClient`. Threads, forks and Ctrl-C: see the package's text."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType, UnionType
from typing import Any, Self, TypeVar, overload

import zmq

from ipc_schema.hello import NetworkInfo
from ipc_schema.mapi.methods import MapiLimits, PendingReply, StatusReply
from logos_client import messaging
from logos_client._connection import DEFAULT_TIMEOUT
from logos_client._stream import Position, StreamCounters
from logos_client.blocking._base import BlockingClient, EventTap, here, open_client
from logos_client.blocking._callbacks import CallbackThread
from logos_client.blocking._portal import Portal
from logos_client.events import Event
from logos_client.exceptions import ClosedError, ForkedError
from logos_client.messaging import DEFAULT_CREDIT, AckMode

__all__ = ["MessagingClient"]

E = TypeVar("E")
Callback = Callable[[E], object]


class MessagingClient(BlockingClient):
    """An app's connection to a Messaging API. Made by `connect`.

    It reconnects by itself, as often as needed: the stream goes on after the last event it has seen, an
    ephemeral app's content topics are subscribed again, and what cannot be recovered is an event
    (`LinkRestored`, `EventsDropped`, `MessagesMissed`). Repeats are dropped by (stream id, seq).
    """

    def __init__(self, portal: Portal, client: messaging.MessagingClient) -> None:
        """Not for apps: see `connect`."""
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
        timeout: float | None = DEFAULT_TIMEOUT,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
    ) -> Self:
        """Connect to a Messaging API.

        `endpoint`: `ipc://…`, `tcp://…`, or a node's run directory. `name`: a durable app
        (`[a-z0-9._-]{1,64}`): its subscriptions, stream and position outlive this program; without one the
        app ends with its connection. `takeover`: end another live connection of that name. `credit`: bytes
        of events that may wait here or be on their way. `ack`: `"auto"` acknowledges an event when the next
        one is asked for, its callbacks have returned, or the client is left in good order (see `close`);
        `"manual"` leaves it to `ack`. `timeout`: seconds
        to wait for the Messaging API, None for ever.

        Raises `NotReadyError` (none there in time), `ConflictError` (the name is in use),
        `UnsupportedVersionError`, `UnauthorisedError`, `BadRequestError`.
        """

        async def open_app() -> messaging.MessagingClient:
            return await messaging.MessagingClient.connect(
                endpoint,
                name=name,
                takeover=takeover,
                credit=credit,
                ack=ack,
                timeout=timeout,
                context=context,
            )

        return cls(*open_client(f"app {name or ''}".rstrip(), open_app))

    # -- closing ---------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Acknowledge what was handled (mode `auto`) and leave; a named app goes on in the Messaging API.

        The last event given out counts as handled, too, when the thread that got it calls this; not while an
        exception is on its way (in `except` and `finally`): it comes again then. Leaving `with` does the
        same. May be called again, by any thread.
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
        """Whether the Messaging API is there now (not whether its node has peers: see `status`)."""
        return self._portal.open and self._client.connected

    @property
    def name(self) -> str:
        """The app's name; one made up by the Messaging API when it is ephemeral."""
        return self._client.name

    @property
    def durable(self) -> bool:
        """Whether the app's stream outlives its connection."""
        return self._client.durable

    @property
    def network(self) -> NetworkInfo:
        """The network the node is on."""
        return self._client.network

    @property
    def limits(self) -> MapiLimits:
        """The Messaging API's limits; `max_payload` is what surely fits a message."""
        return self._client.limits

    @property
    def server(self) -> str:
        """Name and version of the Messaging API."""
        return self._client.server

    @property
    def counters(self) -> StreamCounters:
        """What happened to events on their way in."""
        return self._client.counters

    @property
    def buffered_bytes(self) -> int:
        """Bytes of events that wait for the app; never above the credit by more than one event."""
        return self._client.buffered_bytes

    # -- requests --------------------------------------------------------------------------------------------

    def subscribe(
        self,
        topics: str | Iterable[str],
        *,
        since_last: bool = False,
        history: float = 0.0,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> dict[str, str]:
        """Subscribe to content topics. Returns content topic → why not; the others took effect.

        `since_last`: also what came since this app unsubscribed the topic. `history`: also what came in the
        last so many seconds. Both arrive as `MessageReceived` like everything else, once per message, as soon
        as a store can be asked.
        """
        return self._portal.call(
            self._client.subscribe, here(topics), since_last=since_last, history=history, timeout=timeout
        )

    def unsubscribe(self, topics: str | Iterable[str], *, timeout: float = DEFAULT_TIMEOUT) -> dict[str, str]:
        """Unsubscribe from content topics. Returns content topic → why not (not subscribed, say)."""
        return self._portal.call(self._client.unsubscribe, here(topics), timeout=timeout)

    def subscriptions(self, *, timeout: float = DEFAULT_TIMEOUT) -> list[str]:
        """The app's content topics."""
        return self._portal.call(self._client.subscriptions, timeout=timeout)

    def send(
        self,
        content_topic: str,
        payload: bytes | bytearray | memoryview,
        *,
        ephemeral: bool = False,
        meta: bytes = b"",
        request_id: bytes | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> bytes:
        """Hand a message over. Returns its request id (16 bytes) once it is accepted.

        Accepted needs no peer: the fate follows as `MessagePropagated`, `MessageSent` or `MessageError`
        with this id. `ephemeral`: stores need not keep it. `meta`: at most 64 bytes. The request id is the
        idempotency key: a call with the id of an earlier one and the same message does nothing more, so it
        may be repeated after any error that is `retriable`, and after Ctrl-C. Across a reconnect the client
        repeats it itself, within `timeout`.

        Raises `BadRequestError` (content topic, empty payload, meta), `TooLargeError`, `BusyError`,
        `ConflictError` (the id was used for another message), `RlnRequiredError`, `DeadlineError`.
        """
        return self._portal.call(
            self._client.send,
            content_topic,
            payload,
            ephemeral=ephemeral,
            meta=meta,
            request_id=request_id,
            timeout=timeout,
        )

    def pending(self, *, name: str | None = None, timeout: float = DEFAULT_TIMEOUT) -> PendingReply:
        """The app's sends that have no fate yet, oldest first (at most 1,000), and how many there are.

        `name`: those of another named app of the same user, connected or not; `BadRequestError` when there is
        none.
        """
        return self._portal.call(self._client.pending, name=name, timeout=timeout)

    def cancel(self, request_id: bytes, *, name: str | None = None, timeout: float = DEFAULT_TIMEOUT) -> bool:
        """Cancel a send that was not attempted yet; `MessageCancelled` follows.

        False: too late (its fate follows as ever), or there is no such send. `name`: as in `pending`.
        """
        return self._portal.call(self._client.cancel, request_id, name=name, timeout=timeout)

    def ack(self, event: Event | Position | None = None, *, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Acknowledge everything up to an event of the stream; None: up to the last handled one.

        When it returns, a named app's acknowledgement is on disk: those events do not come again.
        """
        self._portal.call(self._client.ack, event, timeout=timeout)

    def status(self, *, timeout: float = DEFAULT_TIMEOUT) -> StatusReply:
        """The node's connection status, its reason, and the health of each subscribed content topic."""
        return self._portal.call(self._client.status, timeout=timeout)

    def node_info(
        self, ids: Iterable[str] | None = None, *, timeout: float = DEFAULT_TIMEOUT
    ) -> dict[str, object]:
        """Facts about the node: Version, Metrics, MyMultiaddresses, MyENR, MyPeerId, MyBoundPorts,
        MaxMessageSize."""
        return self._portal.call(self._client.node_info, None if ids is None else here(ids), timeout=timeout)

    def forget(self, name: str, *, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Delete a named app of the same user: its stream, its subscriptions, its position."""
        self._portal.call(self._client.forget, name, timeout=timeout)

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
        """The next event. Asking for it says that the one before it is handled.

        With several threads that take turns, that one may be another thread's: use `ack="manual"` then.
        Raises `DeadlineError` when there is none within `timeout` seconds, `ClosedError` when none can come
        any more, RuntimeError in a callback, or while another thread waits for the next event.
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

        Callbacks run one after another, in the events' order, so a slow one makes the stream wait, within
        the credit. While nobody iterates they run by themselves and events without a callback are passed
        over; once somebody iterates, they run as part of the iteration, which gets the other events. What
        one raises goes to `threading.excepthook`; the event counts as handled. `close` does not wait for the
        callback that is running.
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
