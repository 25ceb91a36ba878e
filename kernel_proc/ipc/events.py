"""The event streams: sequence numbers, recording for replay, coverage, and output on the XPUB.

`publish_message` runs once for every message of the network and does the minimum that the contract permits:
encode one header, append to the ring, and send three frames if there is a subscriber. A shard without an
active stream costs a dictionary lookup. Nothing here waits for a reader: the XPUB drops what a slow reader
does not take, which it detects in the sequence numbers.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import Final, Protocol

import trio

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.hello import HEARTBEAT_MS
from ipc_schema.kernel.events import (
    HEALTH_TOPIC,
    PEERS_TOPIC,
    MessageHeaderEncoder,
    encode_health,
    encode_heartbeat,
    encode_peer,
    parse_stream,
    stream_name,
    stream_topic,
)
from ipc_schema.kernel.records import NodeHealth, PeerChange, PeerRecord
from ipc_schema.message import WakuMessage
from ipc_schema.streams import CoverageLog, ReplayBatch, ReplayRing, RingBudget, StreamState, new_epoch
from kernel_proc.metrics import Registry, Sample

MAX_REPLAY_EVENTS: Final = 1024
"""Maximum events per reply: two frames each, sent at once while nothing else runs."""

BEATS_AT_ONCE: Final = 128
"""Heartbeats per turn of the event loop: with static sharding there may be a thousand streams."""

_SUBSCRIBE: Final = 1
_UNSUBSCRIBE: Final = 0


class EventOutlet(Protocol):
    """The XPUB as seen by the publisher; implemented by DrainSocket."""

    def publish(self, first: bytes, second: bytes, third: bytes) -> None:
        """Send three frames at once to all subscribers that can accept them."""


class _Stream:
    """The common state of all streams."""

    __slots__ = ("epoch", "seq", "subscribed", "topic")

    def __init__(self, topic: bytes, epoch: bytes) -> None:
        self.topic = topic
        self.epoch = epoch
        self.seq = 0
        self.subscribed = False

    @property
    def covered(self) -> bool:
        return True


class _MessageStream(_Stream):
    """The stream of one shard. It keeps its last epoch and sequence number while inactive."""

    __slots__ = ("coverage", "encode", "ring", "shard")

    def __init__(self, cluster: int, shard: int, epoch: bytes) -> None:
        super().__init__(stream_topic(cluster, shard), epoch)
        self.shard = shard
        self.coverage = CoverageLog()
        self.ring: ReplayRing | None = None
        self.encode = MessageHeaderEncoder(b"", b"").encode

    @property
    def covered(self) -> bool:
        return self.coverage.is_open

    @property
    def is_unused(self) -> bool:
        """Return whether it was never active and has nothing that a later reader could request."""
        return self.ring is None and self.seq == 0 and not self.coverage.intervals()


class EventPublisher:
    """All streams of one kernel.

    Call `attach` with the XPUB, whose `on_message` is `on_subscription`, then `run`. `shard_count` limits
    what can be subscribed (0: static sharding, any 16-bit shard). `replay_bytes` is the budget of all rings
    together. `clock_ns` labels events; `steady_ns` (monotonic, including suspend) decides about coverage.
    """

    def __init__(
        self,
        *,
        instance: bytes,
        cluster: int,
        shard_count: int,
        replay_bytes: int,
        registry: Registry,
        clock_ns: Callable[[], int] = time.time_ns,
        steady_ns: Callable[[], int] | None = None,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.instance = instance
        self.cluster = cluster
        self._shards = shard_count or 0x10000
        self._clock_ns = clock_ns
        self._steady_ns = steady_ns or clock_ns
        self._random_bytes = random_bytes
        self._budget = RingBudget(replay_bytes)
        self._health = _Stream(HEALTH_TOPIC, new_epoch(random_bytes))
        self._peers = _Stream(PEERS_TOPIC, new_epoch(random_bytes))
        self._by_topic: dict[bytes, _Stream] = {HEALTH_TOPIC: self._health, PEERS_TOPIC: self._peers}
        self._by_shard: dict[int, _MessageStream] = {}
        self._active: dict[int, _MessageStream] = {}
        self._socket: EventOutlet | None = None
        self._ignored = registry.counter("ipc_subscriptions_ignored")
        registry.add_source(self._samples)

    def attach(self, socket: EventOutlet) -> None:
        self._socket = socket

    # --- messages: the hot path ---

    def publish_message(self, shard: int, message: WakuMessage, message_hash: bytes, source: int) -> None:
        """Append the message to the shard's stream; no-op if the stream is not active."""
        stream = self._active.get(shard)
        if stream is None:
            return
        seq = stream.seq = stream.seq + 1
        header = stream.encode(seq, self._clock_ns(), message, message_hash, source)
        stream.ring.append(seq, header, message[0])  # type: ignore[union-attr]  # active streams have a ring
        if stream.subscribed:
            self._socket.publish(stream.topic, header, message[0])  # type: ignore[union-attr]  # it subscribed there

    # --- health and peers ---

    def publish_health(self, health: NodeHealth) -> None:
        """Publish an event on stream `p`."""
        stream = self._health
        stream.seq += 1
        if stream.subscribed:
            self._send(
                stream, encode_health(self.instance, stream.epoch, stream.seq, self._clock_ns(), health)
            )

    def publish_peer(self, change: PeerChange, peer: PeerRecord) -> None:
        """Publish an event on stream `n`."""
        stream = self._peers
        stream.seq += 1
        if stream.subscribed:
            self._send(
                stream, encode_peer(self.instance, stream.epoch, stream.seq, self._clock_ns(), change, peer)
            )

    # --- activation and coverage ---

    def activate(self, shard: int) -> None:
        """Start a new epoch on the shard's stream and record it from now on; no-op if active."""
        if shard in self._active:
            return
        stream = self._stream(shard)
        stream.epoch = new_epoch(self._random_bytes)
        stream.seq = 0
        stream.ring = ReplayRing(self._budget)
        stream.encode = MessageHeaderEncoder(self.instance, stream.epoch).encode
        self._active[shard] = stream
        # Existing subscribers learn of the new epoch now rather than with the next heartbeat.
        self._beat(stream)

    def deactivate(self, shard: int) -> None:
        """Stop recording the shard's stream and discard what was recorded."""
        stream = self._active.pop(shard, None)
        if stream is not None:
            assert stream.ring is not None
            stream.ring.clear()
            stream.ring = None

    def is_active(self, shard: int) -> bool:
        """Return whether the shard's stream is recorded."""
        return shard in self._active

    def active_shards(self) -> list[int]:
        """Return the shards whose streams are recorded."""
        return list(self._active)

    def set_covered(self, shard: int, covered: bool) -> None:
        """Record whether the node has a peer from which it receives the shard."""
        stream = self._stream(shard)
        log = stream.coverage
        if log.open(self._steady_ns()) if covered else log.close(self._steady_ns()):
            self._beat(stream)

    def state(self, shard: int) -> StreamState:
        """Return the state of the shard's stream for leases and hello."""
        stream = self._stream(shard)
        # Kept on a monotonic clock, reported in terms of the current wall clock.
        label = self._clock_ns() - self._steady_ns()
        return StreamState(
            stream=stream_name(self.cluster, shard),
            shard=shard,
            epoch=stream.epoch,
            first=stream.ring.first if stream.ring is not None else stream.seq + 1,
            last=stream.seq,
            coverage=tuple(
                (max(0, begin + label), None if end is None else max(0, end + label))
                for begin, end in stream.coverage.intervals()
            ),
        )

    def replay(self, name: str, epoch: bytes, after: int) -> ReplayBatch:
        """Return recorded events after `after`. Raise `IpcError`: `epoch_changed`, `trimmed` or
        `bad_request`."""
        cluster, shard = parse_stream(name)
        if cluster != self.cluster or not 0 <= shard < self._shards:
            raise IpcError(ErrorCode.BAD_REQUEST, f"stream: {name} is not on this network")
        stream = self._stream(shard)
        if stream.ring is None or stream.epoch != epoch:
            raise IpcError(
                ErrorCode.EPOCH_CHANGED, f"{name} has a new epoch", detail=self.state(shard).to_body()
            )
        return stream.ring.read(after, max_events=MAX_REPLAY_EVENTS)

    def _stream(self, shard: int) -> _MessageStream:
        stream = self._by_shard.get(shard)
        if stream is None:
            stream = _MessageStream(self.cluster, shard, new_epoch(self._random_bytes))
            self._by_shard[shard] = stream
            self._by_topic[stream.topic] = stream
        return stream

    # --- subscribers ---

    def on_subscription(self, frames: list[bytes]) -> None:
        """Handle a frame from the XPUB: the first byte means subscribe or unsubscribe, the rest is the topic.

        The XPUB reports every subscription, but an unsubscription only when the last subscriber has left.
        """
        frame = frames[0]
        stream = self._subscribable(frame[1:]) if frame else None
        if stream is None or frame[0] not in (_SUBSCRIBE, _UNSUBSCRIBE):
            self._ignored.add()
            return
        stream.subscribed = frame[0] == _SUBSCRIBE
        self._beat(stream)
        if not stream.subscribed:
            self._forget_unused(stream)

    def _forget_unused(self, stream: _Stream) -> None:
        """Remove a stream that only exists because of a past subscription: there could be 65,536 of them."""
        if isinstance(stream, _MessageStream) and stream.is_unused:
            del self._by_shard[stream.shard]
            del self._by_topic[stream.topic]

    def _subscribable(self, topic: bytes) -> _Stream | None:
        stream = self._by_topic.get(topic)
        if stream is None and topic.startswith(b"m/") and topic.endswith(b"\0"):
            try:
                cluster, shard = parse_stream(topic[:-1].decode("ascii"))
            except (UnicodeDecodeError, IpcError):
                return None
            if cluster == self.cluster and shard < self._shards:
                return self._stream(shard)
        return stream

    # --- heartbeats ---

    async def run(self) -> None:
        """Send a heartbeat per second on every subscribed stream, until cancelled."""
        due = trio.current_time()
        while True:
            due += HEARTBEAT_MS / 1000
            await trio.sleep_until(due)
            for number, stream in enumerate(list(self._by_topic.values()), 1):
                self._beat(stream)
                if number % BEATS_AT_ONCE == 0:
                    await trio.lowlevel.checkpoint()
            due = max(due, trio.current_time() - HEARTBEAT_MS / 1000)

    def beat(self) -> None:
        """Send one heartbeat on every subscribed stream."""
        for stream in self._by_topic.values():
            self._beat(stream)

    def _beat(self, stream: _Stream) -> None:
        if stream.subscribed:
            self._send(
                stream,
                encode_heartbeat(self.instance, stream.epoch, stream.seq, self._clock_ns(), stream.covered),
            )

    def _send(self, stream: _Stream, header: bytes) -> None:
        if self._socket is not None:
            self._socket.publish(stream.topic, header, b"")

    # --- metrics ---

    def _samples(self) -> Iterable[Sample]:
        yield "ipc_streams_active", {}, len(self._active)
        yield "ipc_streams_subscribed", {}, sum(s.subscribed for s in self._by_topic.values())
        yield "ipc_replay_bytes", {}, self._budget.used
