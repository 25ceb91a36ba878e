"""Transmit channel messages: through the processors of ordinary sends, but without an outbox.

What a channel sends is on disk as the channel's state, and is sent again until it is acknowledged; so a
message here needs no row of its own. Each attempt is a new WakuMessage: its timestamp, and so its hash, is
that of the attempt. Content waits for peers; repairs and sync messages, which would be stale by then, do not.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from ipc_schema.message import WakuMessage, message_hash
from ipc_schema.topics import shard_topic
from mapi_proc.channels.host import ChannelHost
from mapi_proc.channels.sds.state import SendKind
from mapi_proc.send.rate import RateLimiter
from mapi_proc.send.task import NoPeers, Outcome, Published, Refused, SendTask, Unknown

_AT_ONCE: Final = 16
_MOST: Final = 20_000
"""Most messages in the queue. Beyond it the newest is dropped, and the channel retries later."""
_MOST_BYTES: Final = 32 << 20
"""The same for repairs and sync messages, in bytes: a request of a few bytes brings forth a large message."""
_RETRY: Final = 5.0


@dataclass(slots=True)
class MessageInFlight:
    """A message to transmit."""

    channel: ChannelHost
    message_id: str
    kind: SendKind
    content_topic: str
    shard: int
    payload: bytes
    meta: bytes
    ephemeral: bool

    @property
    def stale(self) -> bool:
        """Whether to drop it rather than wait for peers."""
        return self.kind in (SendKind.REPAIR, SendKind.SYNC)


class Transmitter:
    """Await `run()` in a task. One for all channels."""

    def __init__(
        self,
        publish: Callable[[SendTask, bool], Awaitable[Outcome]],
        limiter: RateLimiter,
        cluster: Callable[[], int],
        now_ns: Callable[[], int],
        steady_ns: Callable[[], int],
    ) -> None:
        """`publish`: one round through the processors. `limiter`: shared with ordinary sends, counts by
        `steady_ns`."""
        self._publish = publish
        self._limiter = limiter
        self._cluster = cluster
        self._now_ns = now_ns
        self._steady_ns = steady_ns
        self._queue: deque[MessageInFlight] = deque()
        self._waiting: deque[MessageInFlight] = deque()
        self._changed = asyncio.Event()
        self._online = False
        self._running = 0
        self._stale_bytes = 0
        self._newest_ns = 0
        self.counters = Counter(sent=0, waited=0, refused=0, dropped=0)
        """Attempts since the start, by outcome."""

    def __len__(self) -> int:
        return len(self._queue) + len(self._waiting) + self._running

    def put(self, message: MessageInFlight) -> None:
        """Queue a message to be sent as soon as possible."""
        if len(self) >= _MOST or (message.stale and not self._room_for(message)):
            self.counters["dropped"] += 1
            message.channel.failed(message.message_id)
            return
        self._queue.append(message)
        self._stale_bytes += message.stale * len(message.payload)
        self._changed.set()

    def _room_for(self, message: MessageInFlight) -> bool:
        return self._online and self._stale_bytes + len(message.payload) <= _MOST_BYTES

    def set_online(self, online: bool) -> None:
        """Record whether the kernel is reachable."""
        self._online = online
        self._changed.set()

    def wake(self) -> None:
        """Retry at once: peers appeared."""
        self._queue.extendleft(reversed(self._waiting))
        self._waiting.clear()
        self._changed.set()

    def forget(self, channel: ChannelHost) -> None:
        """Drop the messages of a closed channel."""
        for queue in (self._queue, self._waiting):
            kept = [message for message in queue if message.channel is not channel]
            queue.clear()
            queue.extend(kept)
        self._stale_bytes = sum(len(message.payload) for message in self._queue if message.stale)

    async def run(self) -> None:
        """Serve until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._changed.clear()
                while self._online and self._queue and self._running < _AT_ONCE:
                    if not self._limiter.admit(self._steady_ns() / 1e9):
                        break
                    self._running += 1
                    message = self._queue.popleft()
                    self._stale_bytes -= message.stale * len(message.payload)
                    group.create_task(self._attempt(message))
                await self._wait()

    async def _wait(self) -> None:
        delay: float | None = None
        if self._online and self._queue and self._running < _AT_ONCE:
            delay = max(0.01, self._limiter.next_epoch(self._steady_ns() / 1e9))
        elif self._waiting:
            delay = _RETRY
        try:
            async with asyncio.timeout(delay):
                await self._changed.wait()
        except TimeoutError:
            self.wake()

    async def _attempt(self, message: MessageInFlight) -> None:
        try:
            task = self._task(message)
            outcome = await self._publish(task, False)
        finally:
            self._running -= 1
            self._changed.set()
        self._conclude(message, task.message_hash, outcome)

    def _conclude(self, message: MessageInFlight, digest: bytes, outcome: Outcome) -> None:
        match outcome:
            case Published():
                self.counters["sent"] += 1
                message.channel.transmitted(message.message_id, digest)
            case Refused():
                self.counters["refused"] += 1
                message.channel.failed(message.message_id)
            case NoPeers() | Unknown():
                if message.stale:
                    self.counters["dropped"] += 1
                    message.channel.failed(message.message_id)
                else:
                    self.counters["waited"] += 1
                    self._waiting.append(message)

    def _task(self, message: MessageInFlight) -> SendTask:
        # Two attempts of the same bytes in one nanosecond would have one hash: the network would drop the
        # second.
        timestamp = self._newest_ns = max(self._now_ns(), self._newest_ns + 1)
        topic = shard_topic(self._cluster(), message.shard)
        waku = WakuMessage(message.payload, message.content_topic, timestamp=timestamp, meta=message.meta)
        return SendTask(
            request_id=b"",
            scope=b"",
            content_topic=message.content_topic,
            shard=message.shard,
            payload=message.payload,
            meta=message.meta,
            ephemeral=message.ephemeral,
            timestamp=timestamp,
            message_hash=message_hash(topic, waku),
        )
