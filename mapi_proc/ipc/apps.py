"""The apps' ROUTER: requests and each app's event stream on one connection (SPEC.md, 4)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import zmq

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.frames import MAGIC
from ipc_schema.hello import HEARTBEAT_MS, HELLO, HelloRequest
from ipc_schema.mapi import methods as m
from ipc_schema.mapi.channels import (
    FEATURE_CHANNEL_FIND_SEND,
    FEATURE_CHANNEL_HOOKS,
    FEATURE_CHANNELS,
)
from ipc_schema.mapi.paging import topic_page
from ipc_schema.mapi.send_many import FEATURE_SEND_MANY, SEND_MANY
from ipc_schema.server import Answer, Begun, Call, Route, answer
from ipc_schema.server_client import Client
from mapi_proc.apps import App
from mapi_proc.core import Core
from mapi_proc.ipc.channels import ChannelRoutes
from mapi_proc.ipc.router import AsyncRequests, Hooks, LaterAnswer
from mapi_proc.ipc.sends import begin_sends
from mapi_proc.receive.history_ranges import HistoryRange
from mapi_proc.send.service import pending_reply
from mapi_proc.streams.limits import connection_window

log = logging.getLogger(__name__)

SILENCE_S: Final = 30.0
"""Seconds of silence after which a connection is closed."""


class _Session(Client):
    """One connection of one app. Implements `mapi_proc.apps.AppConnection`."""

    __slots__ = ("_send", "app", "heard", "identity", "over")

    def __init__(self, identity: bytes, app: App, send: Callable[[list[bytes]], bool], heard: float) -> None:
        super().__init__(app.name)
        self.identity = identity
        self.app = app
        self.heard = heard
        self.over = False
        self._send = send

    def send(self, header: bytes, payload: bytes, /) -> bool:
        """Send one event of the app's stream."""
        return self._send([self.identity, MAGIC, header, payload])

    def taken_over(self, header: bytes, /) -> None:
        """Send the last frame: another connection has claimed the name."""
        self.over = True
        self._send([self.identity, MAGIC, header, b""])


class AppServer:
    """Serves apps on a bound ROUTER.

    Create it on a running loop; `run` sends heartbeats and closes silent connections.
    """

    def __init__(
        self,
        core: Core,
        socket: zmq.Socket[bytes],
        instance: bytes,
        server: str,
        *,
        allowed_uids: frozenset[int],
        body_bytes: int,
        blob_bytes: int,
    ) -> None:
        self._core = core
        self._instance = instance
        self._name = server
        self._limits = (core.config.max_in_flight, body_bytes, blob_bytes)
        self._loop = asyncio.get_running_loop()
        self._sessions: dict[bytes, _Session] = {}
        routes = {
            HELLO: Route(self._hello, needs_hello=False),
            m.SUBSCRIBE: Route(self._subscribe),
            m.UNSUBSCRIBE: Route(self._unsubscribe),
            m.SUBSCRIPTIONS: Route(self._subscriptions),
            m.SEND: Route(self._send, may_wait=True),
            SEND_MANY: Route(self._send_many, may_wait=True, per_blob=True),
            m.ACK: Route(self._ack, may_wait=True),
            m.CREDIT: Route(self._credit),
            m.PENDING: Route(self._pending),
            m.FIND_SEND: Route(self._find_send),
            m.CANCEL: Route(self._cancel),
            m.STATUS: Route(self._status),
            m.NODE_INFO: Route(self._node_info),
            m.PING: Route(lambda _call: answer()),
            m.FORGET: Route(self._forget),
            m.GOODBYE: Route(self._goodbye),
            **ChannelRoutes(core, lambda call: _session(call).app).routes(),
        }
        self._router = AsyncRequests(
            "apps",
            socket,
            instance,
            routes,
            hooks=Hooks(self._who, self._gone, self._writable),
            allowed_uids=allowed_uids,
            in_flight=core.config.max_in_flight,
        )
        self.server, self.socket = self._router.server, self._router.socket

    @property
    def connections(self) -> int:
        """Count the connected apps."""
        return len(self._sessions)

    async def run(self) -> None:
        """Send heartbeats each second, until cancelled."""
        while True:
            await asyncio.sleep(HEARTBEAT_MS / 1000)
            now, now_ns = self._loop.time(), self._core.now_ns()
            for identity, session in list(self._sessions.items()):
                if now - session.heard > SILENCE_S:
                    log.info("app %s was silent for %d s", session.app.name, SILENCE_S)
                    self._gone(identity)
                    continue
                if session.send(session.app.stream.heartbeat(now_ns), b""):
                    session.app.stream.pump()

    async def close(self) -> None:
        for identity in list(self._sessions):
            self._gone(identity)
        await self._router.close()

    # -- dispatch ----------------------------------------------------------------------------------------

    def _who(self, identity: bytes) -> Client | None:
        session = self._sessions.get(identity)
        if session is not None:
            session.heard = self._loop.time()
        return session

    def _gone(self, identity: bytes) -> None:
        session = self._sessions.pop(identity, None)
        if session is not None and not session.over:
            self._core.detach(session.app, session)
        self.socket.forget(identity)

    def _writable(self, identity: bytes) -> None:
        session = self._sessions.get(identity)
        if session is not None:
            session.app.stream.pump()

    # -- hello -------------------------------------------------------------------------------------------

    async def _hello(self, call: Call) -> Answer:
        caller = call.caller
        hello = call.read(HelloRequest)
        version = hello.check()
        network = self._core.network  # not_ready until a kernel has reported it
        before = self._sessions.get(caller.identity)
        if before is not None and not before.app.durable and hello.name is None:
            app = before.app  # the same app says hello again: it keeps its stream
        else:
            app = await self._core.open_app(hello.name, caller.uid)
            before = self._sessions.get(caller.identity)  # another hello of its may have been faster
            if before is not None and before.app is not app:
                self._gone(caller.identity)
        session = _Session(caller.identity, app, self.socket.send_soon, self._loop.time())
        other = app.connection
        self._core.claim(app, session, takeover=hello.takeover, instead_of=before)
        if isinstance(other, _Session) and other is not before:
            self._sessions.pop(other.identity, None)
        self._sessions[caller.identity] = session
        await self._core.check_seen(app, hello.seen)
        if caller.descriptor >= 0:
            window = connection_window(self._core.config.apps.ephemeral_max_bytes)
            self.socket.windows.watch(caller.identity, caller.descriptor, window)
        position = m.StreamPosition(id=app.stream.stream_id, acked=app.stream.acked, last=app.stream.last_seq)
        subscriptions, more = topic_page(self._core.table.topics_of(app.stream))
        in_flight, body_bytes, blob_bytes = self._limits
        reply = m.MapiHello(
            protocol=version,
            instance=self._instance,
            server=self._name,
            limits=m.MapiLimits(
                in_flight=in_flight,
                body_bytes=body_bytes,
                blob_bytes=blob_bytes,
                topics=self._core.config.apps.max_topics_per_app,
                max_payload=network.max_payload,
                send_window_ms=int(self._core.config.messages.send_window * 1000),
            ),
            features=(
                FEATURE_CHANNELS,
                FEATURE_CHANNEL_HOOKS,
                FEATURE_CHANNEL_FIND_SEND,
                m.FEATURE_SEND_TIMESTAMP,
                m.FEATURE_FIND_SEND,
                FEATURE_SEND_MANY,
            ),
            heartbeat_ms=HEARTBEAT_MS,
            network=network.info,
            app=app.name,
            durable=app.durable,
            stream=position,
            subscriptions=tuple(subscriptions),
            more=more or None,
            status=self._core.status(app),
        )
        # The events must come behind this answer: attach once the answer is on its way.
        self._loop.call_soon(self._core.attach, app, session, hello.credit)
        return answer(reply.to_body())

    # -- methods -----------------------------------------------------------------------------------------

    async def _subscribe(self, call: Call) -> Answer:
        wanted = call.read(m.SubscribeRequest)
        history = HistoryRange(wanted.since_last, wanted.history_ms * 1_000_000)
        errors = await self._core.subscribe(_session(call).app, wanted.topics, history=history)
        return answer(m.SubscribeReply(errors=errors).to_body())

    async def _unsubscribe(self, call: Call) -> Answer:
        topics = call.read(m.UnsubscribeRequest).topics
        errors = await self._core.unsubscribe(_session(call).app, topics)
        return answer(m.SubscribeReply(errors=errors).to_body())

    def _subscriptions(self, call: Call) -> Answer:
        after = call.read(m.SubscriptionsRequest).after
        topics, more = topic_page(self._core.table.topics_of(_session(call).app.stream), after)
        return answer(m.SubscriptionsReply(topics=tuple(topics), more=more or None).to_body())

    def _send(self, call: Call) -> Awaitable[Answer]:
        send = call.read(m.SendRequest)
        if len(call.blobs) != 1:
            raise IpcError(
                ErrorCode.BAD_REQUEST, f"send: {len(call.blobs)} blobs, the payload is the only one"
            )
        accepted = self._core.send(_session(call).app, send, call.blobs[0])

        def reply(repeated: bool) -> Answer:
            return {"request_id": send.request_id, "repeated": repeated}, ()  # as `SendReply.to_body`

        if isinstance(accepted, asyncio.Future):  # of a new send: without a task, since there are many
            return LaterAnswer(accepted, reply)
        return _then(accepted, reply)

    def _send_many(self, call: Call) -> Awaitable[Answer]:
        return begin_sends(call, partial(self._core.send, _session(call).app))

    def _ack(self, call: Call) -> Begun:
        ack = call.read(m.AckRequest)
        app = _session(call).app
        if call.request.no_reply:
            # Without a task: of a thousand apps each sends one after a few events.
            self._core.note_ack(app, ack.stream, ack.seq)
            return answer()
        return self._acked(app, ack)

    async def _acked(self, app: App, ack: m.AckRequest) -> Answer:
        return answer(m.AckReply(acked=await self._core.ack(app, ack.stream, ack.seq)).to_body())

    def _credit(self, call: Call) -> Answer:
        _session(call).app.stream.grant(call.read(m.CreditRequest).total)
        return answer()

    def _pending(self, call: Call) -> Answer:
        app = self._meant(_session(call), call.read(m.PendingRequest).name)
        return answer(pending_reply(self._core.pending(app)).to_body())

    async def _find_send(self, call: Call) -> Answer:
        wanted = call.read(m.FindSendRequest)
        app = self._meant(_session(call), wanted.name)
        return answer(m.FindSendReply(send=await self._core.find_send(app, wanted.request_id)).to_body())

    def _meant(self, session: _Session, name: str | None) -> App:
        """Return the app that a request is about: its sender, or the app that it names."""
        return session.app if name is None else self._core.named_app(name, session.app.uid)

    async def _cancel(self, call: Call) -> Answer:
        wanted = call.read(m.CancelRequest)
        cancelled = await self._core.cancel(self._meant(_session(call), wanted.name), wanted.request_id)
        return answer(m.CancelReply(cancelled=cancelled).to_body())

    def _status(self, call: Call) -> Answer:
        after = call.read(m.StatusRequest).after
        return answer(self._core.status(_session(call).app, after).to_body())

    async def _node_info(self, call: Call) -> Answer:
        ids = call.read(m.NodeInfoRequest).ids
        return answer(m.NodeInfoReply(info=await self._core.node_info(ids)).to_body())

    async def _forget(self, call: Call) -> Answer:
        name = call.read(m.ForgetRequest).name
        await self._core.forget(name, _session(call).app.uid)
        return answer()

    def _goodbye(self, call: Call) -> Answer:
        self._loop.call_soon(self._gone, _session(call).identity)
        return answer()


async def _then(accepted: Awaitable[bool], reply: Callable[[bool], Answer]) -> Answer:
    return reply(await accepted)


def _session(call: Call) -> _Session:
    assert isinstance(call.client, _Session)
    return call.client
