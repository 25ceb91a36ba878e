"""The pubsub topics that clients poll: what came since the last poll is read from the kernel's replay ring.

A feed of them would cost each message as much as reading its request, although most nodes are never polled:
the reference counts a node's own shards as subscribed from the start.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from ipc_schema.errors import ErrorCode
from ipc_schema.kernel.events import MessageEvent, decode_header
from ipc_schema.message import WakuMessage
from ipc_schema.streams import StreamState
from ipc_schema.topics import PubsubTopic
from logos_client.exceptions import NotReadyError, StreamError, public_errors
from logos_client.kernel import KernelClient
from logos_client.kernel_events import SOURCE_FILTER
from logos_gateway.polling_caches import MAX_TOPICS

log = logging.getLogger(__name__)

_ATTEMPTS: Final = 3


@dataclass(slots=True)
class _Place:
    """The last event of a shard's stream that was read, or had come when the topic was subscribed."""

    shard: int
    epoch: bytes
    seq: int
    polling: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Two polls at a time would return the same messages."""


class RelayTopics:
    """Subscribed pubsub topics, and up to where each has been read."""

    def __init__(self, capacity: int) -> None:
        """`capacity`: most messages of one poll, the newest."""
        self.dropped = 0
        """Messages that were not polled in time, as far as known."""
        self._capacity = capacity
        self._places: dict[str, _Place] = {}
        self._lock = asyncio.Lock()

    def __contains__(self, topic: object) -> bool:
        return topic in self._places

    async def subscribe(self, kernel: KernelClient, topic: PubsubTopic) -> bool:
        """Lease the shard, so that the kernel records it. Return False if there are too many topics.

        Raises `LogosError`.
        """
        name = str(topic)
        async with self._lock:
            if name in self._places:
                return True
            if len(self._places) >= MAX_TOPICS:
                return False
            [state] = await kernel.lease([topic.shard])
            self._places[name] = _Place(topic.shard, state.epoch, state.last)
            return True

    async def unsubscribe(self, kernel: KernelClient, topic: PubsubTopic) -> None:
        """Give the lease back. Raises `LogosError`."""
        async with self._lock:
            place = self._places.pop(str(topic), None)
            if place is not None:
                await kernel.release([place.shard])

    async def take(self, kernel: KernelClient, topic: str) -> list[WakuMessage] | None:
        """Return the topic's messages since the last call, oldest first; None if it is not subscribed.

        Raises `LogosError`.
        """
        place = self._places.get(topic)
        if place is None:
            return None
        async with place.polling:
            for _ in range(_ATTEMPTS):
                state = await self._state(kernel, place.shard)
                known = place.seq if place.epoch == state.epoch else 0
                try:
                    taken, others = await self._newest(kernel, state, known)
                except StreamError as error:  # the ring has moved on meanwhile
                    log.debug("polling %s: %s", topic, error)
                    continue
                if place.epoch != state.epoch:
                    log.warning("what came on %s before the kernel's restart is lost", topic)
                    self.dropped += 1  # at least, or nothing: how many there were is not known
                place.epoch, place.seq = state.epoch, state.last
                self.dropped += state.last - known - others - len(taken)
                return taken
        raise NotReadyError(ErrorCode.NOT_READY, f"the messages of {topic} change too fast")

    async def _state(self, kernel: KernelClient, shard: int) -> StreamState:
        # One more lease, which is given back without a request: its answer says where the stream is now.
        [state] = await kernel.lease([shard])
        await kernel.release([shard])
        return state

    async def _newest(
        self, kernel: KernelClient, state: StreamState, known: int
    ) -> tuple[list[WakuMessage], int]:
        """Return the newest relayed messages between `known` and the end of the stream, and how many other
        events were read."""
        start = max(known, state.first - 1)
        span = self._capacity
        while True:
            after = max(start, state.last - span)
            found, others = await self._relayed(kernel, state, after)
            if after == start or len(found) >= self._capacity:
                return found, others
            span *= 2  # some of them came by filter

    async def _relayed(
        self, kernel: KernelClient, state: StreamState, after: int
    ) -> tuple[list[WakuMessage], int]:
        found: deque[WakuMessage] = deque(maxlen=self._capacity)
        others = 0
        while after < state.last:
            page, _ = await kernel.replay(state.stream, state.epoch, after)
            if not page:
                break
            for header, payload in page:
                with public_errors():
                    event = decode_header(header)
                after = event.seq
                if after > state.last:  # for the next poll
                    break
                if type(event) is MessageEvent and event.source != SOURCE_FILTER:
                    found.append(_message(event, payload))
                else:
                    others += 1
        return list(found), others


def _message(event: MessageEvent, payload: bytes) -> WakuMessage:
    return WakuMessage(
        payload,
        event.content_topic,
        event.version,
        event.timestamp,
        event.meta,
        event.proof,
        event.ephemeral,
    )
