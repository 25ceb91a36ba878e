"""Receive filter pushes: read, verify and deliver them (12/WAKU2-FILTER).

A push is only accepted from a peer at which we hold a subscription for exactly its topics. nwaku's client
does not check this; 12/WAKU2-FILTER recommends it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import trio

from ipc_schema.message import WakuMessage, message_hash
from ipc_schema.protobuf import ProtobufError
from kernel_proc.p2p.api import Host, PeerIdText, Stream
from kernel_proc.protocols.filter.codec import PUSH_PROTOCOL, decode_push
from kernel_proc.protocols.filter.interests import Interests
from kernel_proc.protocols.framing import MessageReader, StreamFrameError

log = logging.getLogger(__name__)

MAX_STREAMS: Final = 32
"""Push streams per peer: go-waku opens a new one per message."""
PUSH_OVERHEAD: Final = 64 * 1024
"""Bytes by which a push may exceed the largest message (nwaku)."""
READ_TIMEOUT: Final = 20.0
"""Seconds from the first byte of a push to its last."""


@dataclass(frozen=True, slots=True)
class PushSink:
    """Where pushed messages go."""

    deliver: Callable[[str, WakuMessage, bytes], bool]
    """Publish a message (pubsub topic, message, hash) on its shard's stream. Return whether it was new."""
    max_message_size: int
    is_valid: Callable[[str, WakuMessage], bool] = lambda _topic, _message: True
    """Run the relay's validators (pubsub topic, message)."""


class PushReceiver:
    """The filter-push protocol on a host.

    `counters` (delivered, not_new, unsolicited, malformed, oversize, invalid) belong to the caller.
    """

    def __init__(self, host: Host, interests: Interests, counters: Counter[str], sink: PushSink) -> None:
        self._host = host
        self._interests = interests
        self._counters = counters
        self._sink = sink

    def mount(self) -> None:
        """Advertise and accept filter-push: service nodes remove subscribers that do not advertise it."""
        self._host.set_stream_handler(PUSH_PROTOCOL, self._serve, max_per_peer=MAX_STREAMS)

    async def _serve(self, stream: Stream) -> None:
        """Read pushes until the stream ends: nwaku sends many frames on one stream, go-waku one."""
        peer_id, counters = stream.peer_id, self._counters
        reader = MessageReader(stream, self._sink.max_message_size + PUSH_OVERHEAD)
        while await reader.started():
            if peer_id not in self._interests:
                counters["unsolicited"] += 1
                await stream.reset()
                return
            try:
                with trio.fail_after(READ_TIMEOUT):
                    body = await reader.read()
            except (StreamFrameError, trio.TooSlowError) as error:
                counters["malformed"] += 1
                log.debug("malformed filter push from %s: %s", peer_id, error)
                await stream.reset()
                return
            if body is None:
                return
            self._take(peer_id, body)

    def _take(self, peer_id: PeerIdText, body: bytes) -> None:
        counters = self._counters
        try:
            push = decode_push(body)
        except ProtobufError as error:
            counters["malformed"] += 1
            log.debug("malformed filter push from %s: %s", peer_id, error)
            return
        message = push.message
        topic = push.pubsub_topic
        if topic is None:
            # The pubsub topic is optional in 12/WAKU2-FILTER. Infer it if only one is possible.
            possible = self._interests.topics_of(peer_id, message.content_topic)
            topic = possible[0] if len(possible) == 1 else ""
        # 12/WAKU2-FILTER: a client should verify that what is pushed matches its subscriptions.
        if not self._interests.holds(peer_id, topic, message.content_topic):
            counters["unsolicited"] += 1
        elif push.size > self._sink.max_message_size:
            counters["oversize"] += 1
        elif not self._sink.is_valid(topic, message):
            counters["invalid"] += 1
        elif self._sink.deliver(topic, message, message_hash(topic, message)):
            counters["delivered"] += 1
        else:
            counters["not_new"] += 1
