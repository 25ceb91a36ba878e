"""The far end of every program of the bench: `python -m tests.bench.clients.server ENDPOINT`.

A ROUTER that knows of the contract what costs nothing: it takes the correlation id out of a header by its
place and answers with frames made before. It treats the client and the bare loop alike, so that it is
the same brake on both.
"""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from typing import Final

import zmq

from ipc_schema.frames import MAGIC, decode_request, encode_reply
from ipc_schema.mapi.event_codec import encode_app_event
from ipc_schema.mapi.events import AppEventKind
from tests.bench.lines import emit

TOPIC: Final = "/bench/1/clients/plain"
STREAM: Final = bytes(range(16))
INSTANCE: Final = os.urandom(16)
HELLO: Final = {
    "protocol": 1,
    "instance": INSTANCE,
    "server": "logos-mapi/bench",
    "features": [],
    "limits": {
        "in_flight": 64,
        "body_bytes": 1 << 20,
        "blob_bytes": 200_000,
        "topics": 100,
        "max_payload": 140_000,
        "send_window_ms": 60_000,
    },
    "heartbeat_ms": 1000,
    "network": {
        "cluster": 1,
        "shard_count": 8,
        "max_message_size": 153_600,
        "preset": "",
        "rln_required": False,
    },
    "app": "bench",
    "durable": False,
    "stream": {"id": STREAM, "acked": 0, "last": 0},
    "subscriptions": [],
    "status": {"connection": "Connected", "reason": "", "resyncing": False, "topics": {}},
}


@lru_cache(maxsize=4)
def event_headers(count: int) -> list[bytes]:
    """The headers of events 1 … `count`."""
    fields = (TOPIC, bytes(32), 1_735_689_600_123_456_789, b"", False, 0, "live")
    return [
        encode_app_event(STREAM, seq, AppEventKind.MESSAGE_RECEIVED, 1_735_689_600_123_456_789, *fields)
        for seq in range(1, count + 1)
    ]


class _Flood:
    """Events for one peer, as its credit allows; without credit (the bare loop) as fast as it takes them."""

    def __init__(self, socket: zmq.Socket[bytes], peer: bytes, count: int, size: int) -> None:
        self._socket = socket
        self._peer = peer
        self._headers = event_headers(count)
        self._payload = bytes(size)
        self._sent = 0
        self._cost = 0

    def send(self, credit: float) -> None:
        socket, peer, payload = self._socket, self._peer, self._payload
        while self._sent < len(self._headers) and self._cost < credit:
            header = self._headers[self._sent]
            socket.send_multipart((peer, MAGIC, header, payload))
            self._sent += 1
            self._cost += len(header) + len(payload)


def serve(endpoint: str) -> None:
    """Until the standard input ends."""
    granted: dict[bytes, int] = {}
    floods: dict[bytes, _Flood] = {}
    # A reply's header is the same but for the correlation id (bytes 3 … 18), in requests and replies alike.
    head, before_method = b"\x93\xc4\x10", 20
    _, ok, _ = encode_reply(bytes(16), INSTANCE, {})
    tail = ok[len(head) + 16 :]
    _, _, accepted = encode_reply(bytes(16), INSTANCE, {"request_id": bytes(16), "repeated": False})
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.set(zmq.ROUTER_MANDATORY, 1)  # wait for room; never drop
        router.set(zmq.LINGER, 0)
        router.bind(endpoint)
        poller = zmq.Poller()
        poller.register(router, zmq.POLLIN)
        poller.register(sys.stdin.fileno(), zmq.POLLIN)
        emit("ready")
        while sys.stdin.fileno() not in dict(poller.poll()):
            while True:
                try:
                    peer, *frames = router.recv_multipart(zmq.NOBLOCK)
                except zmq.Again:
                    break
                if frames[0] == b"flood":
                    _Flood(router, peer, int(frames[1]), int(frames[2])).send(float("inf"))
                    continue
                header = frames[1]
                if header[before_method:].startswith(b"send"):
                    router.send_multipart((peer, MAGIC, head + header[3:19] + tail, accepted))
                    continue
                request, _ = decode_request(frames)
                body: dict[str, object] = {}
                match request.method:
                    case "hello":
                        credit = request.body.get("credit", 0)
                        assert isinstance(credit, int)
                        granted[peer] = credit
                        body = HELLO
                    case "subscribe":
                        topics = request.body["topics"]
                        assert isinstance(topics, tuple | list)
                        _, _, _, count, size = str(topics[0]).split("/")
                        floods[peer] = _Flood(router, peer, int(count), int(size))
                        body = {"errors": {}}
                    case "credit":
                        total = request.body["total"]
                        assert isinstance(total, int)
                        granted[peer] = max(granted[peer], total)
                    case "ack":
                        body = {"acked": request.body["seq"]}
                if not request.no_reply:
                    router.send_multipart([peer, *encode_reply(request.correlation_id, INSTANCE, body)])
                if peer in floods:
                    floods[peer].send(granted[peer])
                if request.method == "goodbye":
                    floods.pop(peer, None)


if __name__ == "__main__":
    serve(sys.argv[1])
