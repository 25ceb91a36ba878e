"""An app's session with the Messaging API: hello, its stream over any number of connections, credit and
acks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any, Final

import zmq

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.frames import Reply
from ipc_schema.hello import HelloRequest, SeenPosition
from ipc_schema.mapi import channels, methods
from ipc_schema.mapi.methods import MapiHello, StatusReply
from logos_client._arguments import need_server
from logos_client._channel_hooks import ChannelHooks
from logos_client._connection import RequestConnection
from logos_client._connection_types import ConnectionSettings
from logos_client._consumer import EventConsumer
from logos_client._joined_sends import JoinedSends
from logos_client._stream import AppStreamReader
from logos_client._stream_types import Position
from logos_client.events import (
    ChannelSegmentReceived,
    ConnectionStatusChange,
    ContentTopicHealthChange,
    LinkLost,
    LinkRestored,
    TakenOver,
)

log = logging.getLogger(__name__)

_MAX_FRAME: Final = 64 << 20
#: Interval (s) in which acks are batched: for a named app each one is a disk write at the server.
_ACK_DELAY: Final = 0.1
_RETRY_DELAY: Final = 0.2
_RETRY_DELAY_MAX: Final = 5.0
_CLOSE_TIMEOUT: Final = 2.0
#: Characters of a hook's error that are reported: at most 1,000 bytes.
_MAX_REASON: Final = 250


class AppSession:
    """Keeps an app's stream going. `hello` is the last accepted one; `topics` are the app's subscriptions."""

    def __init__(
        self,
        endpoint: str,
        *,
        name: str | None,
        takeover: bool,
        credit: int,
        auto_ack: bool,
        context: zmq.Context[zmq.Socket[bytes]] | None,
        seen: SeenPosition | None = None,
    ) -> None:
        self.hello: MapiHello | None = None
        self.status: StatusReply | None = None
        self.topics: set[str] = set()
        self.taken_over: bool = False
        self.closed: bool = False
        self.stream: AppStreamReader = AppStreamReader(credit)
        self.hooks: ChannelHooks = ChannelHooks()
        self.consumer: EventConsumer = EventConsumer(self.stream, self._settle, self._open_segment)
        self._name = name
        self._takeover = takeover
        self._auto_ack = auto_ack
        self._seen_before = seen
        self._offered_credit = 0
        self._lost: Position | None = None  # until the app gets that event
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        settings = ConnectionSettings(
            hello=self._hello_body,
            on_hello=self._greeted,
            on_down=self._link_lost,
            on_refused=lambda error: self._link_lost(str(error)),
            on_event=self._receive,
            keepalive=methods.PING,
            max_frame=_MAX_FRAME,
        )
        self.connection: RequestConnection = RequestConnection(endpoint, settings, context=context)
        self.sends: JoinedSends = JoinedSends(self.connection)

    # -- hello -----------------------------------------------------------------------------------------------

    def _hello_body(self) -> dict[str, object]:
        self._offered_credit = self.stream.opening_credit()
        # Take over on the first hello only: two clients that both insist would take turns for ever.
        takeover = self._takeover and self.hello is None
        request = HelloRequest(
            kind="app",
            name=self._name,
            takeover=takeover,
            credit=self._offered_credit,
            seen=self._seen(),
        )
        return request.to_body()

    def _seen(self) -> SeenPosition | None:
        """Return the last event received, by which a server notices that an older state was put back."""
        hello, stream_id, seq = self.hello, self.stream.stream_id, self.stream.last_seq
        if hello is None or stream_id is None or not seq:
            return self._seen_before
        return SeenPosition(stream=stream_id, seq=seq, instance=hello.instance)

    def _greeted(self, reply: Reply) -> None:
        need_server(reply.body.get("server"), "logos-mapi", "a Messaging API: use KernelClient, or mapi/apps")
        hello = MapiHello.from_body(reply.body, "hello: the reply is not that of a Messaging API")
        first = self.hello is None
        self.hello = hello
        self.status = hello.status
        lost = self.stream.greeted(hello.stream.id, hello.stream.acked, self._offered_credit)
        # It may be lost again before the app hears of it: what the app has events of is the first stream.
        self._lost = self._lost or lost
        if first:
            self.topics.update(hello.subscriptions)
            return
        missing = self._missing(hello)
        if missing:
            self._spawn(self._resubscribe(missing))
        else:
            self._restored({})
        self._settle_later()  # acknowledge what was handled meanwhile

    def _missing(self, hello: methods.MapiHello) -> list[str]:
        """Return our topics that the Messaging API does not know any more."""
        missing = sorted(self.topics.difference(hello.subscriptions))
        if not hello.more:
            return missing
        # A list that goes on is sorted (SPEC §4.2): it says nothing about what lies behind its end.
        return [topic for topic in missing if topic < hello.subscriptions[-1]]

    async def _resubscribe(self, topics: list[str]) -> None:
        """Subscribe again to the topics that the Messaging API does not know any more."""
        delay = _RETRY_DELAY
        while True:
            try:
                reply = await self.connection.request(methods.SUBSCRIBE, {"topics": topics})
                errors = methods.SubscribeReply.from_body(reply.body).errors
                break
            except IpcError as error:
                if error.code is ErrorCode.PEER_RESTARTED or not self.connection.ready:
                    return  # the next hello does it
                if not error.retriable:
                    errors = dict.fromkeys(topics, str(error))
                    break
            await asyncio.sleep(delay)
            delay = min(delay * 2, _RETRY_DELAY_MAX)
        self.topics.difference_update(errors)
        self._restored(errors)

    def _restored(self, errors: dict[str, str]) -> None:
        lost, self._lost = self._lost, None
        stream_id, seq = lost if lost is not None else (None, self.stream.last_seq)
        self.stream.put_local(LinkRestored(lost is None, stream_id, seq, errors))
        self.consumer.wake()

    def _link_lost(self, reason: str) -> None:
        if self.hello is not None and not self.taken_over:
            self.stream.put_local(LinkLost(reason))
            self.consumer.wake()

    # -- events, credit and acks -----------------------------------------------------------------------------

    def _receive(self, frames: list[bytes]) -> None:
        event = self.stream.receive(frames)
        if event is None:
            self._settle()  # dropped events return their credit too
            return
        if type(event) is TakenOver:
            self.taken_over = True
            self._spawn(self.connection.close())
        elif type(event) is ConnectionStatusChange or type(event) is ContentTopicHealthChange:
            self._note_status(event)
        self.consumer.wake()

    def _note_status(self, event: ConnectionStatusChange | ContentTopicHealthChange) -> None:
        """Update the last known status as soon as an event arrives, before the app takes it."""
        status = self.status
        assert status is not None, "events come behind a hello"
        if isinstance(event, ConnectionStatusChange):
            self.status = replace(status, connection=event.status, reason=event.reason)
        else:
            self.status = replace(status, topics={**status.topics, event.content_topic: event.health})

    async def _open_segment(self, event: ChannelSegmentReceived) -> bool:
        """Decrypt a segment and give it back. False: there are no hooks for its channel.

        The event counts as handled, and so may be acknowledged, only when the Messaging API has the segment:
        until then it comes again. Given back twice, it does no harm.
        """
        if event.channel_id not in self.hooks:
            return False
        content, failure = self.hooks.open(event.channel_id, event.payload)
        request = channels.ChannelOpenedRequest(
            channel_id=event.channel_id,
            message_id=event.message_id,
            error=None if content is not None else failure[:_MAX_REASON],
        )
        delay = _RETRY_DELAY
        while not (self.closed or self.taken_over):
            try:
                blobs = [] if content is None else [content]
                await self.connection.request(channels.CHANNEL_OPENED, request.to_body(), blobs)
                break
            except IpcError as error:
                if not error.retriable:
                    # Closed or forgotten: a channel that is opened again gives its segments again.
                    log.debug("a segment of %s was not taken: %s", event.channel_id, error)
                    break
            await asyncio.sleep(delay)
            delay = min(delay * 2, _RETRY_DELAY_MAX)
        return True

    def _settle(self) -> None:
        """Return credit, and schedule an ack."""
        if self.closed or self.taken_over:
            return
        total = self.stream.credit_due()
        if total is not None:
            if self.connection.notify(methods.CREDIT, {"total": total}):
                self.stream.granted(total)
            else:
                self._settle_later()
        if self._auto_ack and self._timer is None and self.stream.ack_due() is not None:
            self._settle_later()

    def _settle_later(self) -> None:
        if self._timer is None and not self.closed:
            self._timer = self._loop.call_later(_ACK_DELAY, self._settle_now)

    def _settle_now(self) -> None:
        self._timer = None
        due = self.stream.ack_due() if self._auto_ack else None
        if due is not None and self.connection.notify(methods.ACK, _ack_body(due)):
            self.stream.acked(due)
        self._settle()

    async def ack(self, position: Position, timeout: float) -> None:
        """Acknowledge up to a position; it holds when this returns. Raises `IpcError`."""
        await self.connection.request(methods.ACK, _ack_body(position), timeout=timeout)
        self.stream.acked(position)

    # -- end -------------------------------------------------------------------------------------------------

    async def close(self, *, done: bool) -> None:
        """Acknowledge what was handled, say goodbye to a connected server, and end.

        `done`: the event that the app holds counts as handled.
        """
        if self.closed:
            return
        self.closed = True
        if done:
            self.stream.handled()
        if self._timer is not None:
            self._timer.cancel()
        if self.connection.ready and not self.taken_over:
            try:
                due = self.stream.ack_due() if self._auto_ack else None
                if due is not None:
                    await self.ack(due, _CLOSE_TIMEOUT)
                await self.connection.request(methods.GOODBYE, timeout=_CLOSE_TIMEOUT)
            except IpcError as error:
                log.debug("leaving %s: %s", self.connection.endpoint, error)
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.connection.close()
        await self.consumer.close()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _ack_body(position: Position) -> dict[str, object]:
    return {"stream": position.stream_id, "seq": position.seq}
