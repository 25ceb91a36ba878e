"""A small Messaging API over a real ROUTER: app streams with credit and acks, as the contract has them, in
memory."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.frames import Request
from ipc_schema.hello import HelloRequest
from ipc_schema.mapi import methods
from ipc_schema.mapi.event_codec import encode_app_event, event_cost, event_frames
from ipc_schema.mapi.events import AppEventKind
from tests.unit.logos_client.server import NETWORK, Answer, ContractServer

STATUS: dict[str, object] = {
    "connection": "Connected",
    "reason": "",
    "resyncing": False,
    "topics": {"/a/1/b/c": "MINIMALLY_HEALTHY"},
}


@dataclass
class App:
    """One app: its stream from seq 1, how far it is acknowledged and sent, its credit on the connection it
    has."""

    name: str
    durable: bool
    stream_id: bytes = field(default_factory=lambda: os.urandom(16))
    events: list[tuple[bytes, bytes]] = field(default_factory=list)
    topics: list[str] = field(default_factory=list)
    acked: int = 0
    acks: list[int] = field(default_factory=list)
    identity: bytes | None = None
    credit: int = 0
    cost: int = 0
    sent: int = 0


class MiniMapi(ContractServer):
    """Apps survive `stop()` and `start()` when they have a name, unless `forget_all` is called between."""

    def __init__(self, path: Path) -> None:
        self.apps: dict[str, App] = {}
        self.by_identity: dict[bytes, App] = {}
        self.sends: dict[bytes, tuple[str, bytes]] = {}
        self.refused_topics: dict[str, str] = {}
        self.time_ns = 0
        super().__init__(path)
        self.limits.update({"topics": 100, "max_payload": 140_000, "send_window_ms": 60_000})
        self.handlers.update(
            {
                methods.SUBSCRIBE: self._subscribe,
                methods.UNSUBSCRIBE: self._unsubscribe,
                methods.SUBSCRIPTIONS: lambda identity, _request: {"topics": self._app(identity).topics},
                methods.SEND: self._send,
                methods.ACK: self._ack,
                methods.CREDIT: self._credit,
                methods.STATUS: lambda _identity, _request: STATUS,
                methods.NODE_INFO: self._node_info,
                methods.FORGET: self._forget,
                methods.GOODBYE: self._goodbye,
            }
        )

    def start(self) -> None:
        super().start()
        self.by_identity.clear()
        for name, app in list(self.apps.items()):
            app.identity = None
            if not app.durable:
                del self.apps[name]

    def forget_all(self) -> None:
        """As after the loss of the database."""
        self.apps.clear()

    def only_app(self) -> App:
        (app,) = self.apps.values()
        return app

    # -- what a test makes happen ----------------------------------------------------------------------------

    def emit(self, app: App, kind: int, *fields: object, payload: bytes = b"") -> int:
        """Put an event on an app's stream and send what its credit allows; returns its seq."""
        self.time_ns += 1
        seq = len(app.events) + 1
        app.events.append((encode_app_event(app.stream_id, seq, kind, self.time_ns, *fields), payload))
        self.push(app)
        return seq

    def message(self, app: App, payload: bytes, topic: str = "/a/1/b/c") -> int:
        """A `message_received` on an app's stream."""
        return self.emit(
            app, AppEventKind.MESSAGE_RECEIVED, topic, bytes(32), 5, b"", False, 0, payload=payload
        )

    def push(self, app: App) -> None:
        while app.identity is not None and app.sent < len(app.events) and app.cost < app.credit:
            header, payload = app.events[app.sent]
            if not self.send(app.identity, event_frames(header, payload)):
                return
            app.sent += 1
            app.cost += event_cost(header, payload)

    def writable(self, identity: bytes) -> None:
        if identity in self.by_identity:
            self.push(self.by_identity[identity])

    # -- methods ---------------------------------------------------------------------------------------------

    def _app(self, identity: bytes) -> App:
        return self.by_identity[identity]

    def hello(self, identity: bytes, request: Request) -> Answer:
        wanted = HelloRequest.from_body(request.body)
        wanted.check()
        name = wanted.name or "ephemeral-" + identity.hex()
        app = self.apps.setdefault(name, App(name, durable=wanted.name is not None))
        if app.identity not in (None, identity):
            if not wanted.takeover:
                raise IpcError(ErrorCode.CONFLICT, f"{name} is connected")
            self.time_ns += 1
            taken_over = encode_app_event(app.stream_id, app.sent, AppEventKind.TAKEN_OVER, self.time_ns)
            assert app.identity is not None
            self.send(app.identity, event_frames(taken_over))
            self.known.discard(app.identity)
        app.identity, app.credit, app.cost, app.sent = identity, wanted.credit, 0, app.acked
        self.by_identity[identity] = app
        self.answer(
            identity,
            request,
            {
                **self.hello_body(),
                "network": NETWORK,
                "app": name,
                "durable": app.durable,
                "stream": {"id": app.stream_id, "acked": app.acked, "last": len(app.events)},
                "subscriptions": app.topics,
                "status": STATUS,
            },
        )
        self.known.add(identity)
        self.push(app)  # right behind the reply
        return None

    def _subscribe(self, identity: bytes, request: Request) -> Answer:
        app = self._app(identity)
        wanted = methods.SubscribeRequest.from_body(request.body).topics
        errors = {topic: why for topic in wanted if (why := self.refused_topics.get(topic))}
        app.topics += [topic for topic in wanted if topic not in errors and topic not in app.topics]
        return {"errors": errors}

    def _unsubscribe(self, identity: bytes, request: Request) -> Answer:
        app = self._app(identity)
        errors = {}
        for topic in methods.UnsubscribeRequest.from_body(request.body).topics:
            if topic in app.topics:
                app.topics.remove(topic)
            else:
                errors[topic] = "not subscribed"
        return {"errors": errors}

    def _send(self, _identity: bytes, request: Request) -> Answer:
        wanted = methods.SendRequest.from_body(request.body)
        if not request.blobs or not request.blobs[0]:
            raise IpcError(ErrorCode.BAD_REQUEST, "empty payload")
        body = (wanted.content_topic, bytes(request.blobs[0]))
        known = self.sends.setdefault(wanted.request_id, body)
        if known != body:
            raise IpcError(ErrorCode.CONFLICT, "the request id was used for another message")
        return {"request_id": wanted.request_id, "repeated": known is not body}

    def _ack(self, identity: bytes, request: Request) -> Answer:
        app = self._app(identity)
        wanted = methods.AckRequest.from_body(request.body)
        if wanted.stream != app.stream_id:
            raise IpcError(ErrorCode.CONFLICT, "another stream")
        app.acks.append(wanted.seq)
        app.acked = max(app.acked, wanted.seq)
        return {"acked": app.acked}

    def _credit(self, identity: bytes, request: Request) -> Answer:
        app = self._app(identity)
        app.credit = max(app.credit, methods.CreditRequest.from_body(request.body).total)
        self.push(app)
        return {}

    def _node_info(self, _identity: bytes, request: Request) -> Answer:
        ids = methods.NodeInfoRequest.from_body(request.body).ids
        facts: dict[str, object] = {"Version": "v1", "MyPeerId": "16Uiu2"}
        return {"info": {key: facts[key] for key in (ids if ids is not None else facts)}}

    def _forget(self, _identity: bytes, request: Request) -> Answer:
        self.apps.pop(methods.ForgetRequest.from_body(request.body).name, None)
        return {}

    def _goodbye(self, identity: bytes, _request: Request) -> Answer:
        app = self.by_identity.pop(identity)
        app.identity = None
        if not app.durable:
            self.apps.pop(app.name, None)
        return {}
