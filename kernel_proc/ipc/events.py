"""The event streams: sequence numbers, recording for replay, coverage, and what goes out on the XPUB.

`publish_message` runs once for every message of the network and does the least that the contract allows: one
header encoded, one append to the ring, three frames sent if somebody has subscribed. A shard without an
active stream costs a dictionary lookup. Nothing here ever waits for a reader: the XPUB drops what a reader
that hangs does not take, and the reader sees it in the sequence numbers.
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

__all__ = ["EventOutlet", "EventPublisher"]

MAX_REPLAY_EVENTS: Final = 1024
"""Events in one reply at most: two frames each, all sent in one go, during which nothing else runs."""

BEATS_AT_ONCE: Final = 128
"""Heartbeats in one turn of the loop: with static sharding somebody may read a thousand streams."""

_SUBSCRIBE: Final = 1
_UNSUBSCRIBE: Final = 0


class EventOutlet(Protocol):
    """The XPUB as the publisher uses it; a DrainSocket is one."""

    def publish(self, first: bytes, second: bytes, third: bytes) -> None:
        """Send three frames at once, to all that take them."""
        ...


class _Stream:
    """What every stream has: one F0."""

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
    """The stream of one shard. It keeps its last epoch and seq while it is not active."""

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
        """It was never active, and has nothing that a later reader could ask for."""
        return self.ring is None and self.seq == 0 and not self.coverage.intervals()


class EventPublisher:
    """All streams of one kernel. `attach` the XPUB, whose `on_message` is `on_subscription`; run `run`.

    `shard_count` bounds what can be subscribed (0: static sharding, any 16-bit shard). `replay_bytes` is the
    budget of all rings together. `clock_ns` labels events; `steady_ns` (never set, sleep included) decides
    about coverage.
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
        """Say where events go."""
        self._socket = socket

    # --- messages: the hot path ---

    def publish_message(self, shard: int, message: WakuMessage, message_hash: bytes, source: int) -> None:
        """Give the message its place on the shard's stream; nothing if the stream is not active."""
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
        """An event on the stream `p`."""
        stream = self._health
        stream.seq += 1
        if stream.subscribed:
            self._send(
                stream, encode_health(self.instance, stream.epoch, stream.seq, self._clock_ns(), health)
            )

    def publish_peer(self, change: PeerChange, peer: PeerRecord) -> None:
        """An event on the stream `n`."""
        stream = self._peers
        stream.seq += 1
        if stream.subscribed:
            self._send(
                stream, encode_peer(self.instance, stream.epoch, stream.seq, self._clock_ns(), change, peer)
            )

    # --- activation and coverage ---

    def activate(self, shard: int) -> None:
        """Begin a new epoch on the shard's stream and record it from now on; nothing if it is active."""
        if shard in self._active:
            return
        stream = self._stream(shard)
        stream.epoch = new_epoch(self._random_bytes)
        stream.seq = 0
        stream.ring = ReplayRing(self._budget)
        stream.encode = MessageHeaderEncoder(self.instance, stream.epoch).encode
        self._active[shard] = stream
        # Whoever subscribed before learns of the new epoch now, not at the next beat.
        self._beat(stream)

    def deactivate(self, shard: int) -> None:
        """Stop recording the shard's stream; what was recorded is gone."""
        stream = self._active.pop(shard, None)
        if stream is not None:
            assert stream.ring is not None
            stream.ring.clear()
            stream.ring = None

    def is_active(self, shard: int) -> bool:
        """Whether the shard's stream is recorded."""
        return shard in self._active

    def active_shards(self) -> list[int]:
        """The shards whose streams are recorded."""
        return list(self._active)

    def set_covered(self, shard: int, covered: bool) -> None:
        """The node has (no longer) a peer from which it hears the shard."""
        stream = self._stream(shard)
        log = stream.coverage
        if log.open(self._steady_ns()) if covered else log.close(self._steady_ns()):
            self._beat(stream)

    def state(self, shard: int) -> StreamState:
        """The shard's stream as leases and hello report it."""
        stream = self._stream(shard)
        # Kept by a clock that no step moves, reported as the wall clock of now counts.
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
        """Recorded events behind `after`. Raises `IpcError`: `epoch_changed`, `trimmed`, `bad_request`."""
        cluster, shard = parse_stream(name)
        if cluster != self.cluster or not 0 <= shard < self._shards:
            raise IpcError(ErrorCode.BAD_REQUEST, f"stream: {name} is not on this network")
        stream = self._stream(shard)
        if stream.ring is None or stream.epoch != epoch:
            raise IpcError(ErrorCode.EPOCH_CHANGED, f"{name} began anew", detail=self.state(shard).to_body())
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
        """A frame from the XPUB: the first byte says subscribe or unsubscribe, the rest is the topic.

        The XPUB tells of every subscription, and of an unsubscription only when nobody is left.
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
        """A stream that is there only because somebody once subscribed to it: there may be 65,536 of them."""
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
        """A heartbeat each second on every stream that somebody reads. Cancel to stop."""
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
        """One heartbeat on every stream that somebody reads."""
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
