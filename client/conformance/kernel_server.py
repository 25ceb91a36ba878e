"""A kernel that misbehaves to order, over real sockets: requests, events and control, one recorded shard in
memory."""

from __future__ import annotations

import os
import time
from pathlib import Path
from socket import AF_UNIX
from socket import socket as unix_socket
from typing import Any, Final

import zmq

from conformance.server import NETWORK, ScriptedApp, ScriptedServer
from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.frames import Request, decode_request, encode_reply
from ipc_schema.kernel.events import encode_heartbeat, encode_message_header, stream_name, stream_topic
from ipc_schema.message import WakuMessage

CLUSTER: Final = 42
STREAM: Final = stream_name(CLUSTER, 0)
TOPIC: Final = stream_topic(CLUSTER, 0)
HEARTBEAT_MS: Final = 250
PAGE: Final = 3


class ScriptedKernel(ScriptedServer):
    """`muted`: no heartbeats; `hung`: nothing from the control socket either; `covered`: it has peers on the
    shard."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "kernel").mkdir()
        self.muted = self.hung = False
        self.covered = True
        self._events: zmq.Socket[bytes] | None = None
        self._control: zmq.Socket[bytes] | None = None
        self._unwelcoming: unix_socket | None = None
        super().__init__(directory / "kernel" / "requests")
        self.limits |= {"replay_bytes": 1 << 20, "lease_ttl_ms": 60_000, "lease_renew_ms": 10_000}

    def start(self) -> None:
        """Restart as another instance, whose shard begins a new epoch."""
        super().start()
        self.new_epoch()
        self._subscribed: set[bytes] = set()
        self._beat_at = 0.0
        self._events = self._bind(zmq.XPUB, "events")
        self._control = self._bind(zmq.ROUTER, "control")

    def _bind(self, kind: int, name: str) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.LINGER, 0)
        socket.bind(f"ipc://{self.directory}/kernel/{name}")
        return socket

    def stop(self) -> None:
        """Stop as if killed."""
        super().stop()
        for socket in (self._events, self._control):
            if socket is not None:
                socket.close()
        self._events = self._control = None
        if self._unwelcoming is not None:
            self._unwelcoming.close()
            self._unwelcoming = None

    @property
    def sockets(self) -> list[zmq.Socket[bytes]]:
        """Return the sockets that a client may write to."""
        return [socket for socket in (self.socket, self._events, self._control) if socket is not None]

    # -- what a scenario does --------------------------------------------------------------------------------

    def new_epoch(self) -> None:
        """Leave and rejoin the shard: seq 1 follows."""
        self.epoch = os.urandom(8)
        self.ring: list[tuple[bytes, bytes]] = []
        self.first = 1

    @property
    def last(self) -> int:
        """Return the last seq of the shard."""
        return self.first + len(self.ring) - 1

    def publish(self, payload: bytes, *, dropped: bool = False) -> None:
        """Record a message, and send it unless it is `dropped` on the way to the reader."""
        message = WakuMessage(payload, "/a/1/b/c", timestamp=5)
        header = encode_message_header(
            self.instance, self.epoch, self.last + 1, 7, message, bytes(range(32)), 0
        )
        self.ring.append((header, payload))
        if not dropped:
            self.event([TOPIC, header, payload])

    def event(self, frames: list[bytes]) -> None:
        """Send frames of any kind to the subscribers."""
        assert self._events is not None
        self._events.send_multipart(frames)

    def trim(self, count: int) -> None:
        """Drop the oldest events of the ring."""
        del self.ring[:count]
        self.first += count

    def mute(self) -> None:
        """Stop sending heartbeats."""
        self.muted = True

    def hang(self) -> None:
        """Stop sending heartbeats and answering on the control socket."""
        self.muted = self.hung = True

    def turn_away(self) -> None:
        """End the next connection to the control socket at once."""
        assert self._control is not None
        self._control.close()
        self._control = None
        path = self.directory / "kernel" / "control"
        path.unlink()
        self._unwelcoming = unix_socket(AF_UNIX)
        self._unwelcoming.bind(str(path))
        self._unwelcoming.listen()
        self._unwelcoming.setblocking(False)

    def _welcome(self) -> None:
        """Be there for the connections after one that was turned away."""
        assert self._unwelcoming is not None
        try:
            visitor, _ = self._unwelcoming.accept()
        except BlockingIOError:
            return
        visitor.close()
        self._unwelcoming.close()
        self._unwelcoming = None
        (self.directory / "kernel" / "control").unlink()
        self._control = self._bind(zmq.ROUTER, "control")

    def recover(self) -> None:
        """End `mute` and `hang`."""
        self.muted = self.hung = False

    def beat(self) -> None:
        """Send a heartbeat on each subscribed stream."""
        for topic in sorted(self._subscribed):
            seq = self.last if topic == TOPIC else 0
            self.event([topic, encode_heartbeat(self.instance, self.epoch, seq, 7, self.covered), b""])
        self._beat_at = time.monotonic() + HEARTBEAT_MS / 1000

    # -- what comes in ---------------------------------------------------------------------------------------

    def receive(self) -> None:
        """Handle what has arrived, and send heartbeats on time."""
        super().receive()
        if self._events is None:
            return
        while self._events.poll(0):
            subscription = self._events.recv()
            change = self._subscribed.add if subscription[:1] == b"\1" else self._subscribed.discard
            change(subscription[1:])
            self._beat_at = 0.0
        if time.monotonic() >= self._beat_at and not self.muted:
            self.beat()
        if self._unwelcoming is not None:
            self._welcome()
        while self._control is not None and not self.hung and self._control.poll(0):
            identity, *frames = self._control.recv_multipart()
            request, _ = decode_request(frames)
            body = {"ready": True, "state": "READY", "version": "scripted", "pid": 1, "uptime_ms": 1}
            self._control.send_multipart(
                [identity, *encode_reply(request.correlation_id, self.instance, body)]
            )

    def _hello(self, identity: bytes, request: Request) -> dict[str, Any]:
        if request.body.get("protocol") != [1, 1]:
            self.violations.append(f"§2: hello with protocol [1, 1], not {request.body}")
        self._known[identity] = ScriptedApp(durable=False)
        return {
            "protocol": 1,
            "instance": self.instance,
            "server": "logos-kernel/scripted",
            "features": [],
            "limits": self.limits,
            "heartbeat_ms": HEARTBEAT_MS,
            "network": NETWORK,
            "events": f"ipc://{self.directory}/kernel/events",
            "consumer": "scripted",
            "streams": [],
        }

    def state(self) -> dict[str, Any]:
        """Return the shard's stream state."""
        return {
            "stream": STREAM,
            "shard": 0,
            "epoch": self.epoch,
            "first": self.first,
            "last": self.last,
            "coverage": [[7, None]] if self.covered else [],
        }

    def _answer(self, identity: bytes, request: Request) -> dict[str, Any]:  # noqa: ARG002
        match request.method:
            case "lease.acquire":
                return {"leases": [self.state()], "ttl_ms": self.limits["lease_ttl_ms"]}
            case "lease.release":
                return {"released": request.body["shards"]}
            case "node.health":
                return {"state": "READY", "protocols": [], "shards": [], "event_loop": {}}
            case "peers.list":
                return {"peers": [], "total": 0}
            case "stream.replay":
                return self._replay(request.body)
        raise IpcError(ErrorCode.UNKNOWN_METHOD, f"there is no method {request.method!r}")

    def _replay(self, body: dict[str, Any]) -> dict[str, Any]:
        after = body["after"]
        if body["epoch"] != self.epoch:
            raise IpcError(ErrorCode.EPOCH_CHANGED, "another epoch", detail=self.state())
        if after + 1 < self.first:
            raise IpcError(ErrorCode.TRIMMED, "trimmed", detail=self.state())
        if after > self.last:
            self.violations.append(f"§3.2: a replay behind {after}, above the head")
        page = self.ring[after + 1 - self.first :][:PAGE]
        self.blobs = [frame for event in page for frame in event]
        return {"events": len(page), "last": after + len(page), "complete": after + len(page) == self.last}

    def _scripted_error(self, request: Request, error: dict[str, Any]) -> list[bytes]:
        """Replace `"detail": "$state"` by the stream's state."""
        if error.get("detail") == "$state":
            error = error | {"detail": self.state()}
        return super()._scripted_error(request, error)
