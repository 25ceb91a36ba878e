"""The message cache (mcache, GossipSub v1.0): what we offer with IHAVE and serve on IWANT."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from kernel_proc.relay.rpc_writer import encode_message


class CachedMessage:
    """A cached message. Its frame is encoded on first use and shared by all recipients."""

    __slots__ = ("_frame", "data", "message_id", "served", "topic", "topic_name", "window")

    def __init__(self, topic: bytes, topic_name: str, message_id: bytes, data: bytes, window: int) -> None:
        self.topic = topic
        self.topic_name = topic_name
        self.message_id = message_id
        self.data = data
        self.window = window
        self.served: dict[str, int] | None = None
        self._frame: bytes | None = None

    @property
    def frame(self) -> bytes:
        if self._frame is None:
            self._frame = encode_message(self.topic, self.data)
        return self._frame


class MessageCache:
    """Keep the messages of the last `length` heartbeats, at most `max_bytes`; offer those of the last
    `gossip`.

    Keyed by message id alone, because IWANT carries no topic. Publishing the same bytes on a second topic
    replaces the first entry.
    """

    def __init__(self, length: int, gossip: int, max_bytes: int) -> None:
        self._length = length
        self._gossip = gossip
        self._max_bytes = max_bytes
        self._by_id: dict[bytes, CachedMessage] = {}
        # A separate queue by age: finding the first key of a dict whose front has been deleted is a linear
        # search.
        self._by_age: deque[CachedMessage] = deque()
        self._window = 0
        self._ids: deque[dict[str, list[bytes]]] = deque([{}], maxlen=gossip)
        self.bytes = 0
        self.evicted = 0
        """Messages evicted early because of `max_bytes`."""

    def __len__(self) -> int:
        return len(self._by_id)

    def put(self, topic: bytes, topic_name: str, message_id: bytes, data: bytes) -> CachedMessage:
        known = self._by_id.pop(message_id, None)
        if known is not None:
            self.bytes -= len(known.data)
        message = CachedMessage(topic, topic_name, message_id, data, self._window)
        self._by_id[message_id] = message
        self._by_age.append(message)
        self.bytes += len(data)
        ids = self._ids[0].get(topic_name)
        if ids is None:
            self._ids[0][topic_name] = [message_id]
        else:
            ids.append(message_id)
        while self.bytes > self._max_bytes:
            self._drop_oldest()
            self.evicted += 1
        return message

    def get(self, message_id: bytes) -> CachedMessage | None:
        return self._by_id.get(message_id)

    def gossip_ids(self, topic: str) -> Sequence[bytes]:
        """Return the cached ids of `topic` in the gossip windows, newest window first."""
        return [i for window in self._ids for i in window.get(topic, ()) if i in self._by_id]

    def shift(self) -> None:
        """Start a new window. Call once per heartbeat."""
        self._window += 1
        self._ids.appendleft({})
        oldest = self._window - self._length + 1
        while self._by_age and self._by_age[0].window < oldest:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        message = self._by_age.popleft()
        if self._by_id.get(message.message_id) is message:  # not replaced by a later copy
            del self._by_id[message.message_id]
            self.bytes -= len(message.data)
