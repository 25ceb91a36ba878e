"""The apps' ROUTER: requests and each app's event stream on one connection (SPEC.md, 4)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

import zmq

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.frames import MAGIC, Request
from ipc_schema.hello import HEARTBEAT_MS, HELLO, HelloRequest, hello_first
from ipc_schema.mapi import methods as m
from mapi_proc.apps import App
from mapi_proc.core import Core
from mapi_proc.ipc.router import Answer, Caller, Result, RouterServer
from mapi_proc.receive.history_ranges import HistoryRange
from mapi_proc.send.service import pending_reply

__all__ = ["SILENCE_S", "AppServer"]

log = logging.getLogger(__name__)

SILENCE_S: Final = 30.0
"""A connection that says nothing for so long is closed."""


class _Session:
    """One connection of one app. Implements `mapi_proc.apps.Connection`."""

    __slots__ = ("_send", "app", "heard", "identity", "over")

    def __init__(self, identity: bytes, app: App, send: Callable[[list[bytes]], bool], heard: float) -> None:
        self.identity = identity
        self.app = app
        self.heard = heard
        self.over = False
        self._send = send

    def send(self, header: bytes, payload: bytes, /) -> bool:
        """One event of the app's stream."""
        return self._send([self.identity, MAGIC, header, payload])

    def taken_over(self, header: bytes, /) -> None:
        """The last frame: the name has another connection now."""
        self.over = True
        self._send([self.identity, MAGIC, header, b""])


class AppServer:
    """Serves apps on a bound ROUTER. Create it on a running loop; `run` sends heartbeats and ends
    the silent.
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
        self._router = RouterServer(
            socket,
            instance,
            self._handle,
            allowed_uids=allowed_uids,
            in_flight=core.config.max_in_flight,
            on_gone=self._gone,
            on_writable=self._writable,
        )
        self.counters = self._router.counters
        self._methods: dict[str, Callable[[_Session, Request], Result | Awaitable[Result]]] = {
            m.SUBSCRIBE: self._subscribe,
            m.UNSUBSCRIBE: self._unsubscribe,
            m.SUBSCRIPTIONS: self._subscriptions,
            m.SEND: self._send,
            m.ACK: self._ack,
            m.CREDIT: self._credit,
            m.PENDING: self._pending,
            m.CANCEL: self._cancel,
            m.STATUS: self._status,
            m.NODE_INFO: self._node_info,
            m.PING: lambda _session, _request: Answer(),
            m.FORGET: self._forget,
            m.GOODBYE: self._goodbye,
        }

    @property
    def connections(self) -> int:
        """Apps connected now."""
        return len(self._sessions)

    async def run(self) -> None:
        """Heartbeats, each second; until cancelled."""
        while True:
            await asyncio.sleep(HEARTBEAT_MS / 1000)
            now, now_ns = self._loop.time(), self._core.now_ns()
            for identity, session in list(self._sessions.items()):
                if now - session.heard > SILENCE_S:
                    log.info("app %s said nothing for %d s", session.app.name, SILENCE_S)
                    self._gone(identity)
                    continue
                if session.send(session.app.stream.heartbeat(now_ns), b""):
                    session.app.stream.pump()

    async def close(self) -> None:
        """End all connections."""
        for identity in list(self._sessions):
            self._gone(identity)
        await self._router.close()

    # -- dispatch ----------------------------------------------------------------------------------------

    def _handle(self, caller: Caller, request: Request) -> Result | Awaitable[Result]:
        if request.method == HELLO:
            hello = HelloRequest.from_body(request.body)
            version = hello.check()
            return self._hello(caller, hello, version)
        method = self._methods.get(request.method)
        if method is None:
            raise IpcError(ErrorCode.UNKNOWN_METHOD, f"there is no method {request.method[:64]!r}")
        session = self._sessions.get(caller.identity)
        if session is None:
            raise hello_first()
        session.heard = self._loop.time()
        return method(session, request)

    def _gone(self, identity: bytes) -> None:
        session = self._sessions.pop(identity, None)
        if session is not None and not session.over:
            self._core.detach(session.app, session)
        self._router.socket.drop_backlog(identity)

    def _writable(self, identity: bytes) -> None:
        session = self._sessions.get(identity)
        if session is not None:
            session.app.stream.pump()

    # -- hello -------------------------------------------------------------------------------------------

    async def _hello(self, caller: Caller, hello: HelloRequest, version: int) -> Answer:
        network = self._core.network  # not_ready until the kernel has told it
        before = self._sessions.get(caller.identity)
        if before is not None and not before.app.durable and hello.name is None:
            app = before.app  # the same app says hello again: it keeps its stream
        else:
            uid = caller.credentials.uid if caller.credentials is not None else None
            app = await self._core.open_app(hello.name, uid)
            before = self._sessions.get(caller.identity)  # another hello of its may have been faster
            if before is not None and before.app is not app:
                self._gone(caller.identity)
        session = _Session(caller.identity, app, self._router.socket.send_soon, self._loop.time())
        other = app.connection
        self._core.claim(app, session, takeover=hello.takeover, instead_of=before)
        if isinstance(other, _Session) and other is not before:
            self._sessions.pop(other.identity, None)
        self._sessions[caller.identity] = session
        position = m.StreamPosition(id=app.stream.stream_id, acked=app.stream.acked, last=app.stream.last_seq)
        in_flight, body_bytes, blob_bytes = self._limits
        reply = m.MapiHello(
            protocol=version,
            instance=self._instance,
            server=self._name,
            limits=m.MapiLimits(
                in_flight=in_flight,
                body_bytes=body_bytes,
                blob_bytes=blob_bytes,
                topics=self._core.config.max_topics_per_app,
                max_payload=network.max_payload,
                send_window_ms=int(self._core.config.send_window * 1000),
            ),
            heartbeat_ms=HEARTBEAT_MS,
            network=network.info,
            app=app.name,
            durable=app.durable,
            stream=position,
            subscriptions=tuple(self._core.table.topics_of(app.stream)),
            status=self._core.status(app),
        )
        # The events must come behind this answer: attach once the answer is on its way.
        self._loop.call_soon(self._core.attach, app, session, hello.credit)
        return Answer(reply.to_body())

    # -- methods -----------------------------------------------------------------------------------------

    async def _subscribe(self, session: _Session, request: Request) -> Answer:
        wanted = m.SubscribeRequest.from_body(request.body)
        history = HistoryRange(wanted.since_last, wanted.history_ms * 1_000_000)
        errors = await self._core.subscribe(session.app, wanted.topics, history=history)
        return Answer(m.SubscribeReply(errors=errors).to_body())

    async def _unsubscribe(self, session: _Session, request: Request) -> Answer:
        topics = m.UnsubscribeRequest.from_body(request.body).topics
        errors = await self._core.unsubscribe(session.app, topics)
        return Answer(m.SubscribeReply(errors=errors).to_body())

    def _subscriptions(self, session: _Session, request: Request) -> Answer:  # noqa: ARG002
        topics = tuple(self._core.table.topics_of(session.app.stream))
        return Answer(m.SubscriptionsReply(topics=topics).to_body())

    async def _send(self, session: _Session, request: Request) -> Answer:
        send = m.SendRequest.from_body(request.body)
        if len(request.blobs) != 1:
            raise IpcError(
                ErrorCode.BAD_REQUEST, f"send: {len(request.blobs)} blobs, the payload is the only one"
            )
        repeated = await self._core.send(session.app, send, request.blobs[0])
        return Answer(m.SendReply(request_id=send.request_id, repeated=repeated).to_body())

    async def _ack(self, session: _Session, request: Request) -> Answer:
        ack = m.AckRequest.from_body(request.body)
        acked = await self._core.ack(session.app, ack.stream, ack.seq)
        return Answer(m.AckReply(acked=acked).to_body())

    def _credit(self, session: _Session, request: Request) -> Answer:
        session.app.stream.grant(m.CreditRequest.from_body(request.body).total)
        return Answer()

    def _pending(self, session: _Session, request: Request) -> Answer:
        app = self._meant(session, m.PendingRequest.from_body(request.body).name)
        return Answer(pending_reply(self._core.pending(app)).to_body())

    def _meant(self, session: _Session, name: str | None) -> App:
        """The app that a request is about: its sender, or the one it names."""
        return session.app if name is None else self._core.named_app(name, session.app.uid)

    def _cancel(self, session: _Session, request: Request) -> Answer:
        wanted = m.CancelRequest.from_body(request.body)
        cancelled = self._core.cancel(self._meant(session, wanted.name), wanted.request_id)
        return Answer(m.CancelReply(cancelled=cancelled).to_body())

    def _status(self, session: _Session, request: Request) -> Answer:  # noqa: ARG002
        return Answer(self._core.status(session.app).to_body())

    async def _node_info(self, session: _Session, request: Request) -> Answer:  # noqa: ARG002
        ids = m.NodeInfoRequest.from_body(request.body).ids
        return Answer(m.NodeInfoReply(info=await self._core.node_info(ids)).to_body())

    async def _forget(self, session: _Session, request: Request) -> Answer:
        name = m.ForgetRequest.from_body(request.body).name
        await self._core.forget(name, session.app.uid)
        return Answer()

    def _goodbye(self, session: _Session, request: Request) -> Answer:  # noqa: ARG002
        self._loop.call_soon(self._gone, session.identity)
        return Answer()
