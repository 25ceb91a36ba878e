"""The client of a Messaging API: subscribe, send, and one ordered stream of events.

    async with MessagingClient.connect(run_dir, name="weather") as client:
        await client.subscribe("/weather/1/berlin/json")
        request_id = await client.send("/weather/1/berlin/json", b'{"celsius": 21}')
        async for event in client:
            match event:
                case MessageReceived():
                    print(event.content_topic, event.payload)
                case MessagePropagated(request_id=sent) if sent == request_id:
                    print("on its way")

The event classes are in `logos_client.events`, the errors in `logos_client.exceptions`.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import replace
from pathlib import Path
from types import TracebackType, UnionType
from typing import Any, Final, Literal, Self, TypeVar, get_args, overload

import zmq

from ipc_schema.errors import ErrorCode
from ipc_schema.hello import SeenPosition
from ipc_schema.mapi import methods
from ipc_schema.mapi.methods import PendingReply, PendingSend, StatusReply
from ipc_schema.mapi.send_many import FEATURE_SEND_MANY
from ipc_schema.message import WakuMessage, encode_message
from ipc_schema.names import check_name
from ipc_schema.sizes import relay_frame_size, too_large_text
from ipc_schema.topics import shard_topic
from logos_client._arguments import as_bytes, as_text, as_topics, history_ms, messaging_endpoint
from logos_client._calls import read_reply
from logos_client._channels import ChannelMethods
from logos_client._connection import DEFAULT_TIMEOUT
from logos_client._opening import Opening
from logos_client._session import AppSession
from logos_client._stream_types import Position
from logos_client.events import Event
from logos_client.exceptions import (
    BadRequestError,
    ClosedError,
    DeadlineError,
    TooLargeError,
    UnknownMethodError,
    public_errors,
)

__all__ = ["DEFAULT_CREDIT", "AckMode", "MessagingClient"]

E = TypeVar("E")
Callback = Callable[[E], Awaitable[None] | None]
AckMode = Literal["auto", "manual"]

DEFAULT_CREDIT: Final = 2 << 20


class MessagingClient(ChannelMethods):
    """An app's connection to a Messaging API, on the running asyncio loop. Created by `connect`.

    Use it from the loop (and so the thread) that created it; after a fork it raises `ForkedError` in the
    child. For other threads, and programs without a loop, there is `logos_client.blocking`.

    It reconnects by itself as often as needed: the stream continues after the last event seen, an ephemeral
    app's content topics are subscribed again, and what cannot be recovered is reported as an event
    (`LinkRestored`, `EventsDropped`, `MessagesMissed`). Duplicates are dropped by (stream id, seq).
    """

    # -- opening and closing ---------------------------------------------------------------------------------

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
    ) -> Opening[Self]:
        """Connect to a Messaging API: `await` it, or enter it as a context.

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

        where = messaging_endpoint(endpoint)
        if ack not in get_args(AckMode):
            raise ValueError(f"ack: 'auto' or 'manual', not {ack!r}")
        if not isinstance(credit, int):
            raise TypeError(f"credit: int, a number of bytes, not {type(credit).__name__}")

        async def open_client() -> Self:
            with public_errors():
                if name is not None:
                    check_name(name)
                session = AppSession(
                    where,
                    name=name,
                    takeover=takeover,
                    credit=credit,
                    auto_ack=ack == "auto",
                    context=context,
                    seen=seen,
                )
                try:
                    await session.connection.wait_ready(timeout)
                    client = cls(session)
                    await client._complete_topics()
                except BaseException:
                    await session.close(done=False)
                    raise
                return client

        return Opening(open_client)

    async def close(self) -> None:
        """Acknowledge what was handled (mode `auto`) and disconnect; a named app lives on in the Messaging
        API.

        The last event taken counts as handled too if the task that took it calls this or has ended
        normally, but not while an exception propagates (in `except` and `finally`): it is delivered again
        then. Leaving `async with` does the same.
        """
        await self._leave(done=sys.exception() is None and self._session.consumer.settled())

    async def _leave(self, *, done: bool) -> None:
        if not self._home.left:
            await self._session.close(done=done)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._leave(done=error is None and self._session.consumer.settled())

    def __repr__(self) -> str:
        state = "closed" if self._session.closed else self._session.connection.state.value
        return f"<MessagingClient {self.name!r} at {self._session.connection.endpoint}: {state}>"

    # -- requests --------------------------------------------------------------------------------------------

    async def subscribe(
        self,
        topics: str | Iterable[str],
        *,
        since_last: bool = False,
        history: float = 0.0,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> dict[str, str]:
        """Subscribe to content topics. Return content topic → error text; the others took effect.

        A single topic, given as text, that is refused raises `BadRequestError` instead. `since_last`: also
        deliver what came since this app unsubscribed from the topic. `history`: also deliver what came in
        that many seconds before now. Both arrive as `MessageReceived` like everything else, once per
        message, as soon as a store can be queried.
        """
        wanted = as_topics(topics)
        body: dict[str, Any] = {"topics": wanted}
        if since_last:
            body["since_last"] = True
        if history:
            body["history_ms"] = history_ms(history)
        reply = await self._ask(methods.SUBSCRIBE, body, timeout=timeout, repeat=True)
        errors = read_reply(methods.SubscribeReply, reply).errors
        self._session.topics.update(topic for topic in wanted if topic not in errors)
        if isinstance(topics, str) and topics in errors:
            raise BadRequestError(ErrorCode.BAD_REQUEST, f"{topics}: {errors[topics]}")
        return errors

    async def unsubscribe(
        self, topics: str | Iterable[str], *, timeout: float = DEFAULT_TIMEOUT
    ) -> dict[str, str]:
        """Unsubscribe from content topics.

        Return content topic → error text (for instance: not subscribed).
        """
        unwanted = as_topics(topics)
        reply = await self._ask(methods.UNSUBSCRIBE, {"topics": unwanted}, timeout=timeout)
        self._session.topics.difference_update(unwanted)
        return read_reply(methods.SubscribeReply, reply).errors

    async def subscriptions(self, *, timeout: float = DEFAULT_TIMEOUT) -> list[str]:
        """Return the app's content topics."""
        found: list[str] = []
        while True:
            body = {"after": found[-1]} if found else {}
            reply = await self._ask(methods.SUBSCRIPTIONS, body, timeout=timeout, repeat=True)
            part = read_reply(methods.SubscriptionsReply, reply)
            found += part.topics
            if not part.more or not part.topics:
                return found

    async def _complete_topics(self) -> None:
        """Get the rest of a first hello's list that went on (SPEC §4.2): a server that loses the app's
        subscriptions then gets all of them again."""
        if self._greeting.more:
            self._session.topics.update(await self.subscriptions())

    async def send(
        self,
        content_topic: str,
        payload: bytes | bytearray | memoryview,
        *,
        ephemeral: bool = False,
        meta: bytes = b"",
        request_id: bytes | None = None,
        timestamp: int | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> bytes:
        """Send a message. Return its request id (16 bytes) once it is accepted.

        Acceptance needs no peer: the outcome follows as `MessagePropagated`, `MessageSent` or
        `MessageError` with this id. `ephemeral`: do not have stores keep it. `meta`: at most 64 bytes. The
        request id is the idempotency key: a call with an earlier id and the same message does nothing more,
        so it may be repeated after any `retriable` error. Across a reconnect the client repeats it itself,
        within `timeout`.

        `timestamp`: the message's, in ns since 1970, instead of the time of the first attempt: the same
        timestamp, topic, payload and meta make the same message, whichever node sends it. Needs the feature
        `send_timestamp` of the Messaging API.

        Raises `BadRequestError` (content topic, empty payload, meta, a timestamp more than 20 s ahead),
        `UnknownMethodError` (an older Messaging API, with `timestamp`), `TooLargeError`, `BusyError`,
        `ConflictError` (the id was used for another message), `RlnRequiredError`, `DeadlineError`.
        """
        data = as_bytes("payload", payload)
        if request_id is None:
            request_id = methods.request_id_at(time.time_ns(), os.urandom(10))
        request_id = as_bytes("request id", request_id, 16)
        # `SendRequest.to_body` would cost as much as encoding the request does.
        body: dict[str, Any] = {
            "request_id": request_id,
            "content_topic": as_text("content topic", content_topic),
            "meta": as_bytes("meta", meta),
            "ephemeral": ephemeral,
        }
        if timestamp is not None:
            if methods.FEATURE_SEND_TIMESTAMP not in self._greeting.features:
                what = f"{self.server} cannot send with a timestamp of the app's"
                raise UnknownMethodError(ErrorCode.UNKNOWN_METHOD, what)
            body["timestamp"] = timestamp
        if len(data) > self.limits.max_payload:  # a smaller payload certainly fits
            self._check_size(content_topic, body["meta"], data)
        self._check_open()
        joins = FEATURE_SEND_MANY in self._greeting.features
        joined = self._session.sends.join(body, data, timeout) if joins else None
        if joined is not None:
            await self._public(joined)
        else:
            await self._ask(methods.SEND, body, [data], timeout=timeout, repeat=True)
        return request_id

    def _check_size(self, content_topic: str, meta: bytes, payload: bytes) -> None:
        """Refuse what the network does not accept; MAPI would accept it, and end it in `message_error`.

        A frame above the blob limit would even cost us the connection: libzmq closes it unread
        (ZMQ_MAXMSGSIZE).
        """
        network = self.network
        message = WakuMessage(payload, content_topic, timestamp=time.time_ns(), meta=meta)
        size = relay_frame_size(len(encode_message(message)), shard_topic(network.cluster, 0))
        if size > network.max_message_size or len(payload) > self.limits.blob_bytes:
            limit = too_large_text(network.max_message_size)
            what = f"{limit}: it takes {size} with a payload of {len(payload)}"
            raise TooLargeError(ErrorCode.TOO_LARGE, what)

    async def pending(self, *, name: str | None = None, timeout: float = DEFAULT_TIMEOUT) -> PendingReply:
        """List the app's sends that are not final, oldest first (at most 1,000), and their number.

        `name`: those of another named app of the same user, connected or not; `BadRequestError` if there is
        none.
        """
        body = methods.PendingRequest(name=name).to_body()
        return read_reply(PendingReply, await self._ask(methods.PENDING, body, timeout=timeout, repeat=True))

    async def find_send(
        self, request_id: bytes, *, name: str | None = None, timeout: float = DEFAULT_TIMEOUT
    ) -> PendingSend | None:
        """Return a send by its request id, also when it is final: `state` is then `sent`, `unconfirmed`,
        `failed` or `cancelled`.

        None: it was not accepted, or a day ago, after which ids are forgotten. `name`: as in `pending`.
        Raises `UnknownMethodError` (an older Messaging API).
        """
        request = methods.FindSendRequest(request_id=as_bytes("request id", request_id, 16), name=name)
        reply = await self._ask(methods.FIND_SEND, request.to_body(), timeout=timeout, repeat=True)
        return read_reply(methods.FindSendReply, reply).send

    async def cancel(
        self, request_id: bytes, *, name: str | None = None, timeout: float = DEFAULT_TIMEOUT
    ) -> bool:
        """Cancel a send before its first attempt; `MessageCancelled` follows.

        Return False if it is too late (its outcome follows as usual) or there is no such send. `name`: as
        in `pending`.
        """
        request = methods.CancelRequest(request_id=as_bytes("request id", request_id, 16), name=name)
        reply = await self._ask(methods.CANCEL, request.to_body(), timeout=timeout)
        return read_reply(methods.CancelReply, reply).cancelled

    async def ack(self, event: Event | Position | None = None, *, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Acknowledge everything up to an event of the stream; None: up to the last handled one.

        When it returns, a named app's acknowledgement is on disk: those events are not delivered again.
        """
        position = self._session.stream.position_of(event)
        if position is not None:
            self._check_open()
            with public_errors():
                await self._session.ack(position, timeout)

    async def status(self, *, timeout: float = DEFAULT_TIMEOUT) -> StatusReply:
        """Return the node's connection status, its reason, and the health of each subscribed content
        topic."""
        topics: dict[str, str] = {}
        while True:
            body = {"after": max(topics)} if topics else {}
            part = read_reply(
                StatusReply, await self._ask(methods.STATUS, body, timeout=timeout, repeat=True)
            )
            topics |= part.topics
            if not part.more or not part.topics:
                return replace(part, topics=topics, more=None)

    async def node_info(
        self, ids: Iterable[str] | None = None, *, timeout: float = DEFAULT_TIMEOUT
    ) -> dict[str, object]:
        """Return facts about the node: Version, Metrics, MyMultiaddresses, MyENR, MyPeerId, MyBoundPorts,
        MaxMessageSize, Build."""
        body = {} if ids is None else {"ids": list(ids)}
        reply = await self._ask(methods.NODE_INFO, body, timeout=timeout, repeat=True)
        return read_reply(methods.NodeInfoReply, reply).info

    async def forget(self, name: str, *, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Delete a named app of the same user: its stream, its subscriptions, its position."""
        await self._ask(methods.FORGET, {"name": name}, timeout=timeout)

    # -- events ----------------------------------------------------------------------------------------------

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        event = await self._session.consumer.next()
        if event is None:
            raise StopAsyncIteration
        return event

    async def next_event(self, timeout: float | None = None) -> Event:
        """Return the next event. Asking for it marks the previous one as handled.

        Raises `DeadlineError` if there is none within `timeout` seconds, `ClosedError` if there can be no
        more.
        """
        self._home.check()
        event = self._session.consumer.next_queued()
        if event is not None:
            return event
        try:
            async with asyncio.timeout(timeout):
                event = await self._session.consumer.next()
        except TimeoutError:
            raise DeadlineError(ErrorCode.DEADLINE_EXCEEDED, f"no event within {timeout:g} s") from None
        if event is None:
            raise ClosedError
        return event

    async def _next_events(self, most: int) -> list[Event]:
        """Return the next event and those queued behind it, at most so many; none if there can be no more.

        For the gateway, to which waiting for each costs as much as decoding it. Only with `ack="manual"`: all
        but the last count as handled at once.
        """
        event = await self._session.consumer.next()
        return [] if event is None else [event, *self._session.consumer.queued(most - 1)]

    @overload
    def on(self, kind: type[E]) -> Callable[[Callback[E]], Callback[E]]: ...
    @overload
    def on(self, kind: type[E], callback: Callback[E]) -> Callable[[], None]: ...
    @overload
    def on(self, kind: UnionType) -> Callable[[Callback[Any]], Callback[Any]]: ...
    @overload
    def on(self, kind: UnionType, callback: Callback[Any]) -> Callable[[], None]: ...
    def on(self, kind: type[E] | UnionType, callback: Callback[E] | None = None) -> Any:
        """Call a function, plain or async, with each event of a class, or of a union of them: `Event` is
        all.

            remove = client.on(MessageReceived, handle)

            @client.on(ConnectionStatusChange)
            async def changed(event): ...

        Callbacks run one after another, in the events' order; an async one is awaited, so a slow one delays
        the stream, within the credit. Without an iteration they run in the background and events without a
        callback are skipped; during an iteration they run as part of it, and it yields the other events.
        Exceptions go to the loop's exception handler; the event counts as handled.
        """
        if callback is None:

            def decorate(function: Callback[E]) -> Callback[E]:
                self._session.consumer.add(kind, function)
                return function

            return decorate
        return self._session.consumer.add(kind, callback)
