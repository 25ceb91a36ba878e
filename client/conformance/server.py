"""A Messaging API that misbehaves to order, over a real ROUTER: streams with credit and acks, in memory.

It answers every method of an app in the plain way, until a scenario asks for something else. What a client
does against the contract gathers in `violations`.
"""

from __future__ import annotations

import functools
import os
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import msgpack
import zmq

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.frames import FrameError, Request, decode_request, encode_error, encode_reply
from ipc_schema.mapi.event_codec import encode_app_event, event_cost, event_frames
from ipc_schema.mapi.events import AppEventKind

NETWORK: Final = {
    "cluster": 42,
    "shard_count": 1,
    "max_message_size": 153_600,
    "preset": "",
    "rln_required": False,
}
STATUS: Final = {"connection": "Connected", "reason": "", "resyncing": False, "topics": {}}


@dataclass
class ScriptedApp:
    """One app: its stream, how far it is acknowledged and sent, its credit on the connection it has."""

    durable: bool
    stream_id: bytes = field(default_factory=lambda: os.urandom(16))
    events: list[tuple[int, bytes, bytes]] = field(default_factory=list)
    topics: list[str] = field(default_factory=list)
    acked: int = 0
    last: int = 0
    identity: bytes | None = None
    credit: int = 0
    cost: int = 0
    position: int = 0


class ScriptedServer:
    """`answers[method]`: what to do with the next requests of a method, instead of the plain answer."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.endpoint = f"ipc://{path}"
        self.limits: dict[str, int] = {
            "in_flight": 64,
            "body_bytes": 1 << 20,
            "blob_bytes": 200_000,
            "topics": 100,
            "max_payload": 140_000,
            "send_window_ms": 60_000,
        }
        self.apps: dict[str, ScriptedApp] = {}
        self.requests: list[Request] = []
        self.answers: dict[str, deque[dict[str, Any]]] = defaultdict(deque)
        self.held: list[Callable[[], None]] = []
        """What sends the replies that are held back, the oldest first."""
        self.most_held = 0
        self.violations: list[str] = []
        self.blobs: list[bytes] = []  # of the next reply
        self.opened: list[bytes] = []
        self.sealed = b""
        self._split = b""
        self._known: dict[bytes, ScriptedApp] = {}
        self._given: set[tuple[bytes, bytes]] = set()
        """Stream ids, and the instances that gave them."""
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket: zmq.Socket[bytes] | None = None
        self._other: zmq.Socket[bytes] | None = None
        self._visits = 0
        self.start()

    # -- its life --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Restart as another instance on the same path, with the durable state."""
        self.instance = os.urandom(16)
        self._known.clear()
        self.held.clear()
        self.apps = {name: app for name, app in self.apps.items() if app.durable}
        for app in self.apps.values():
            app.identity = None
        self.socket = self._context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.bind(self.endpoint)

    def stop(self) -> None:
        """Stop as if killed."""
        if self.socket is not None:
            self.socket.close()
            self.socket = None
        if self._other is not None:
            self.visits()
            self._other.disable_monitor()
            self._other.close()
            self._other = None

    def other_kind(self) -> None:
        """Have a socket under the same path that takes no requests."""
        self.stop()
        self._other = self._context.socket(zmq.XPUB)
        self._other.setsockopt(zmq.LINGER, 0)
        self._accepted = self._other.get_monitor_socket(zmq.EVENT_ACCEPTED)
        self._other.bind(self.endpoint)

    def visits(self) -> int:
        """Return how many connections to the socket of another kind there were."""
        while self._other is not None and self._accepted.poll(0):
            self._accepted.recv_multipart()
            self._visits += 1
        return self._visits

    @property
    def sockets(self) -> list[zmq.Socket[bytes]]:
        """Return the sockets that a client may write to."""
        return [self.socket] if self.socket is not None else []

    def close(self) -> None:
        """Close the sockets."""
        self.stop()
        self._context.destroy(linger=0)

    def forget_connections(self) -> None:
        """Answer the next request of each connection with `hello first`."""
        for app in self._known.values():
            app.identity = None
        self._known.clear()

    def plain(self) -> None:
        """Answer in the plain way from now on."""
        self.answers.clear()

    def lose_database(self) -> None:
        """Lose all apps, streams and subscriptions."""
        self.apps.clear()
        self._known.clear()

    @property
    def app(self) -> ScriptedApp:
        """Return the only app, or the last one that said hello."""
        return list(self.apps.values())[-1]

    # -- events ----------------------------------------------------------------------------------------------

    def emit(self, kind: int, fields: list[Any], payload: bytes = b"", *, gap: int = 0) -> None:
        """Put an event on the app's stream, `gap` numbers behind where it belongs."""
        app = self.app
        app.last += 1 + gap
        header = encode_app_event(app.stream_id, app.last, kind, 7, *fields)
        app.events.append((app.last, header, payload))
        self._push(app)

    def raw(self, frames: list[bytes]) -> None:
        """Send frames of any kind to the app."""
        assert self.app.identity is not None
        self._send(self.app.identity, frames)

    def again(self, count: int) -> None:
        """Send the last `count` events once more."""
        for _, header, payload in self.app.events[-count:]:
            self.raw(event_frames(header, payload))

    def out_of_band(self, kind: AppEventKind) -> None:
        """Send an event that takes neither seq nor credit."""
        self.raw([*event_frames(encode_app_event(self.app.stream_id, self.app.last, kind, 7))])

    def _push(self, app: ScriptedApp) -> None:
        while app.identity is not None and app.position < len(app.events) and app.cost < app.credit:
            _, header, payload = app.events[app.position]
            app.position += 1
            app.cost += event_cost(header, payload)
            self._send(app.identity, event_frames(header, payload))

    def _send(self, identity: bytes, frames: list[bytes]) -> None:
        if self.socket is not None:
            self.socket.send_multipart([identity, *frames])

    # -- requests --------------------------------------------------------------------------------------------

    def receive(self) -> None:
        """Handle what has arrived."""
        while self.socket is not None:
            try:
                identity, *frames = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                request, _ = decode_request(frames)
            except FrameError as error:
                self.violations.append(f"§2: frames that are not a request: {error}")
                self._send(identity, encode_error(error.correlation_id, self.instance, error))
                continue
            self._handle(identity, request)

    def _handle(self, identity: bytes, request: Request) -> None:
        self.requests.append(request)
        if len(request.correlation_id) != 16:
            self.violations.append("§2: a correlation id has 16 bytes")
        script = self.answers[request.method].popleft() if self.answers[request.method] else {}
        if script.get("hold") == "request":
            self._hold(functools.partial(self._answer_late, identity, request))
            return
        if script.get("silence"):
            return
        try:
            if "error" in script:
                self._send(identity, self._scripted_error(request, script["error"]))
                return
            if request.method != "hello" and identity not in self._known:
                raise IpcError(ErrorCode.NOT_READY, "hello first")
            body = (
                self._hello(identity, request)
                if request.method == "hello"
                else self._answer(identity, request)
            )
        except IpcError as error:
            self._send(identity, encode_error(request.correlation_id, self.instance, error))
            return
        body |= script.get("extra", {})
        instance = os.urandom(16) if script.get("instance") == "another" else self.instance
        self.instance = instance
        reply = self._encode(request, body, script.get("before"))
        if script.get("hold") == "reply":
            self._hold(functools.partial(self._send, identity, reply))
        elif not request.no_reply:
            self._send(identity, reply)
        if request.method == "hello":
            self._push(self._known[identity])

    def _hold(self, reply: Callable[[], None]) -> None:
        self.held.append(reply)
        self.most_held = max(self.most_held, len(self.held))

    def release(self, count: int) -> None:
        """Send held replies, the oldest first."""
        for _ in range(count):
            self.held.pop(0)()

    def _answer_late(self, identity: bytes, request: Request) -> None:
        self._send(identity, self._encode(request, self._answer(identity, request)))

    def _encode(
        self, request: Request, body: dict[str, Any], before: dict[str, Any] | None = None
    ) -> list[bytes]:
        """`before`: keys that stand before those of the body, and may repeat them."""
        blobs, self.blobs = self.blobs, []
        frames = encode_reply(request.correlation_id, self.instance, body, blobs)
        if before:
            assert len(body) + len(before) < 16, "a map whose size is in its first byte"
            frames[2] = bytes([frames[2][0] + len(before)]) + msgpack.packb(before)[1:] + frames[2][1:]
        return frames

    def _scripted_error(self, request: Request, error: dict[str, Any]) -> list[bytes]:
        """Return the scenario's error, whose codes and keys this version may not know."""
        frames = encode_reply(request.correlation_id, self.instance, error)
        # Status 1 instead of 0: the byte behind the array's head and the correlation id.
        header = bytearray(frames[1])
        header[19] = 1
        return [frames[0], bytes(header), *frames[2:]]

    def _hello(self, identity: bytes, request: Request) -> dict[str, Any]:
        body = request.body
        if body.get("kind") != "app" or body.get("protocol") != [1, 1]:
            self.violations.append(f"§4.1: hello {{kind 'app', protocol [1, 1]}}, not {body}")
        name = body.get("name")
        key = name if isinstance(name, str) else "ephemeral-" + identity.hex()
        app = self.apps.setdefault(key, ScriptedApp(durable=name is not None))
        credit = body.get("credit", 0)
        assert isinstance(credit, int)
        app.identity, app.credit, app.cost = identity, credit, 0
        app.position = sum(seq <= app.acked for seq, _, _ in app.events)
        self._known[identity] = app
        self._check_seen(app, body.get("seen"))
        self._given.add((app.stream_id, self.instance))
        return {
            "protocol": 1,
            "instance": self.instance,
            "server": "logos-mapi/scripted",
            "features": [],
            "limits": self.limits,
            "heartbeat_ms": 1000,
            "network": NETWORK,
            "app": key,
            "durable": app.durable,
            "stream": {"id": app.stream_id, "acked": app.acked, "last": app.last},
            "subscriptions": list(app.topics),
            "status": STATUS,
        }

    def _answer(self, identity: bytes, request: Request) -> dict[str, Any]:
        app, body = self._known[identity], request.body
        match request.method:
            case "subscribe" | "unsubscribe":
                topics: Any = body["topics"]
                good = [topic for topic in topics if topic.startswith("/")]
                app.topics = [topic for topic in app.topics if topic not in good]
                app.topics += good if request.method == "subscribe" else []
                return {"errors": {topic: "not a content topic" for topic in topics if topic not in good}}
            case "subscriptions":
                return {"topics": list(app.topics)}
            case "send":
                self._check_send(request)
                return {"request_id": body["request_id"], "repeated": False}
            case "ack":
                seq = body["seq"]
                assert isinstance(seq, int)
                if body["stream"] != app.stream_id:
                    self.violations.append("§4.2: an ack of another stream")
                if seq > app.last:
                    self.violations.append(f"§4.3: an ack of {seq} above the last seq given, {app.last}")
                app.acked = max(app.acked, seq)
                return {"acked": app.acked}
            case "credit":
                total = body["total"]
                assert isinstance(total, int)
                app.credit = max(app.credit, total)
                self._push(app)
                return {}
            case "status":
                return dict(STATUS)
            case "pending":
                return {"sends": [], "total": 0, "states": {}}
            case "cancel":
                return {"cancelled": False}
            case "goodbye":
                self._known.pop(identity)
                app.identity = None
                return {}
            case "ping" | "forget":
                return {}
            case "channel.create":
                return {"sender_id": "me", "existed": False}
            case "channel.split":
                payload = b"".join(request.blobs)
                self.blobs, self._split = [payload], payload
                return {"sizes": [2, len(payload) - 2], "needed": 2}
            case "channel.send":
                self._check_sealed(request)
                return {"request_id": body["request_id"], "repeated": False}
            case "channel.opened":
                if ("error" in body) == bool(request.blobs):
                    self.violations.append("§4.5: a segment is given back as a blob or as an error")
                self.opened += request.blobs
                return {}
        raise IpcError(ErrorCode.UNKNOWN_METHOD, f"there is no method {request.method!r}")

    def _check_sealed(self, request: Request) -> None:
        sealed: Any = request.body.get("sealed")
        if sealed is None:
            raise IpcError(ErrorCode.BAD_REQUEST, "encryption failed: the segments are not sealed")
        if sum(sealed["sizes"]) != sum(map(len, request.blobs)):
            self.violations.append("§4.5: `sizes` are those of the encrypted segments, which are the blobs")
        if sealed["digest"] != sha256(self._split).digest():
            self.violations.append("§4.5: `digest` is the SHA-256 of the plain payload")
        self.sealed = b"".join(request.blobs)

    def _check_seen(self, app: ScriptedApp, seen: Any) -> None:
        if seen is None:
            return
        if (seen["stream"], seen["instance"]) not in self._given:
            self.violations.append("§4.1: `seen` names a stream and an instance that it did not come from")
        elif seen["stream"] == app.stream_id and seen["seq"] > app.last:
            self.violations.append(f"§4.1: {seen['seq']} was never given, the last seq is {app.last}")

    def _check_send(self, request: Request) -> None:
        request_id = request.body.get("request_id")
        if not isinstance(request_id, bytes) or len(request_id) != 16:
            self.violations.append("§4.2: the request id of a send has 16 bytes")
        if len(request.blobs) != 1:
            self.violations.append("§4.2: the payload of a send is blob 0")
