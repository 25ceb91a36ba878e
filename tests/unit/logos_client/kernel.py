"""A small kernel: a ContractServer and an XPUB, streams with seq, epoch, replay and leases, in memory."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import zmq

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.frames import Request
from ipc_schema.kernel import methods
from ipc_schema.kernel.events import (
    HEALTH_TOPIC,
    PEERS_TOPIC,
    SOURCE_RELAY,
    encode_health,
    encode_heartbeat,
    encode_message_header,
    encode_peer,
    stream_name,
    stream_topic,
)
from ipc_schema.kernel.records import NodeHealth, PeerRecord
from ipc_schema.message import WakuMessage
from logos_sockets.drain import DrainSocket
from tests.unit.logos_client.server import Answer, ContractServer

HEALTH = NodeHealth(state="READY")
PEER = PeerRecord(peer_id="16Uiu2", address="/ip4/127.0.0.1/tcp/1")
CLUSTER = 42


@dataclass
class Stream:
    """One stream and all its events since its epoch began; replay has those from `first` on."""

    epoch: bytes = field(default_factory=lambda: os.urandom(8))
    events: list[tuple[bytes, bytes]] = field(default_factory=list)
    first: int = 1


class MiniKernel(ContractServer):
    """`lose(n)` keeps the next events from the wire; they are in the ring all the same."""

    def __init__(self, directory: Path) -> None:
        self.streams: dict[bytes, Stream] = {}
        self.leases: list[tuple[int, ...]] = []
        self.released: list[tuple[int, ...]] = []
        self.page = 3
        self.losing = 0
        self._publisher: DrainSocket | None = None
        self._events = directory / "events"
        self.lease_renew_ms = 10_000
        self.replay_busy = 0
        super().__init__(directory / "requests")
        self.handlers.update(
            {
                methods.LEASE_ACQUIRE: self._acquire,
                methods.LEASE_RELEASE: self._release,
                methods.STREAM_REPLAY: self._replay,
                methods.NODE_HEALTH: lambda _identity, _request: HEALTH.to_body(),
                methods.PEERS_LIST: lambda _identity, _request: {"peers": [PEER.to_body()]},
            }
        )

    def start(self) -> None:
        super().start()
        self.streams = {HEALTH_TOPIC: Stream(), PEERS_TOPIC: Stream()}
        publisher = self._context.socket(zmq.XPUB)
        publisher.setsockopt(zmq.XPUB_VERBOSE, 1)
        publisher.setsockopt(zmq.SNDHWM, 100_000)
        publisher.setsockopt(zmq.LINGER, 0)
        publisher.bind(f"ipc://{self._events}")
        self._publisher = DrainSocket(asyncio.get_running_loop(), publisher, self._subscribed)

    def stop(self) -> None:
        super().stop()
        if self._publisher is not None:
            self._publisher.close()
            self._publisher = None

    def hello(self, _identity: bytes, _request: Request) -> Answer:
        body = self.hello_body()
        body["limits"] = {
            **self.limits,
            "replay_bytes": 1 << 20,
            "lease_ttl_ms": 60_000,
            "lease_renew_ms": self.lease_renew_ms,
        }
        return {**body, "events": f"ipc://{self._events}", "consumer": "me", "streams": []}

    # -- what a test makes happen ----------------------------------------------------------------------------

    def message(self, payload: bytes, shard: int = 0) -> None:
        stream = self.streams[stream_topic(CLUSTER, shard)]
        message = WakuMessage(payload, "/a/1/b/c", 0, 7, b"", b"", False)
        header = encode_message_header(
            self.instance, stream.epoch, len(stream.events) + 1, 1, message, bytes(32), SOURCE_RELAY
        )
        self._append(stream_topic(CLUSTER, shard), header, payload)

    def health(self) -> None:
        stream = self.streams[HEALTH_TOPIC]
        header = encode_health(self.instance, stream.epoch, len(stream.events) + 1, 1, HEALTH)
        self._append(HEALTH_TOPIC, header, b"")

    def peer(self) -> None:
        stream = self.streams[PEERS_TOPIC]
        header = encode_peer(self.instance, stream.epoch, len(stream.events) + 1, 1, "joined", PEER)
        self._append(PEERS_TOPIC, header, b"")

    def heartbeat(self, topic: bytes) -> None:
        stream = self.streams[topic]
        header = encode_heartbeat(self.instance, stream.epoch, len(stream.events), time.time_ns(), True)
        self.publish(topic, header, b"")

    def publish(self, *frames: bytes) -> None:
        assert self._publisher is not None
        self._publisher.send(frames)

    def _append(self, topic: bytes, header: bytes, payload: bytes) -> None:
        self.streams[topic].events.append((header, payload))
        if self.losing:
            self.losing -= 1
        else:
            self.publish(topic, header, payload)

    # -- the contract ----------------------------------------------------------------------------------------

    def _subscribed(self, frames: list[bytes]) -> None:
        if frames[0][:1] == b"\x01" and frames[0][1:] in self.streams:
            self.heartbeat(frames[0][1:])

    def _acquire(self, _identity: bytes, request: Request) -> Answer:
        shards = methods.LeaseAcquireRequest.from_body(request.body).shards
        self.leases.append(shards)
        for shard in shards:
            topic = stream_topic(CLUSTER, shard)
            if topic not in self.streams:
                self.streams[topic] = Stream()
                self.heartbeat(topic)
        return {"leases": [self._state(shard) for shard in shards], "ttl_ms": 60_000}

    def _state(self, shard: int) -> dict[str, object]:
        stream = self.streams[stream_topic(CLUSTER, shard)]
        return {
            "stream": stream_name(CLUSTER, shard),
            "shard": shard,
            "epoch": stream.epoch,
            "first": stream.first,
            "last": len(stream.events),
            "coverage": [],
        }

    def _release(self, _identity: bytes, request: Request) -> Answer:
        shards = methods.LeaseReleaseRequest.from_body(request.body).shards
        self.released.append(shards)
        return {"released": list(shards)}

    def _replay(self, _identity: bytes, request: Request) -> Answer:
        wanted = methods.StreamReplayRequest.from_body(request.body)
        if self.replay_busy:
            self.replay_busy -= 1
            raise IpcError(ErrorCode.BUSY, "one replay at a time")
        shard = int(wanted.stream.rsplit("/", 1)[1])
        stream = self.streams.get(stream_topic(CLUSTER, shard))
        if stream is None:
            raise IpcError(ErrorCode.BAD_REQUEST, f"{wanted.stream} is not recorded")
        if wanted.epoch != stream.epoch:
            raise IpcError(ErrorCode.EPOCH_CHANGED, "another epoch", detail=self._state(shard))
        if wanted.after + 1 < stream.first:
            raise IpcError(ErrorCode.TRIMMED, "gone", detail={"first": stream.first})
        events = stream.events[wanted.after : wanted.after + self.page]
        last = wanted.after + len(events)
        body = {"events": len(events), "last": last, "complete": last == len(stream.events)}
        return body, [frame for event in events for frame in event]
