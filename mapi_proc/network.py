"""The network that the node is on, as MAPI needs it: from the kernel's hello, kept for starts without a
kernel.
"""

from __future__ import annotations

import json
from typing import Final

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.hello import NetworkInfo
from ipc_schema.sizes import largest_payload
from ipc_schema.topics import TopicError, autoshard, shard_topic

__all__ = ["MAX_CONTENT_TOPIC_BYTES", "NETWORK_NOTE", "Network"]

MAX_CONTENT_TOPIC_BYTES: Final = 256
"""Longest content topic an app may use, in UTF-8 bytes: the payload limit given in hello counts on it."""

NETWORK_NOTE = "network"
"""The database's note that holds the last network."""


class Network:
    """A network and what follows from it."""

    def __init__(self, info: NetworkInfo) -> None:
        self.info = info
        # A shard's number takes one to four characters of the topic; the longest one decides.
        longest = shard_topic(info.cluster, max(info.shard_count - 1, 0))
        self.max_payload = largest_payload(info.max_message_size, longest, MAX_CONTENT_TOPIC_BYTES)

    def shard_of(self, content_topic: str) -> int:
        """The shard of a content topic. Raises TopicError with the text for the app."""
        if self.info.shard_count == 0:
            raise TopicError("Pubsub topic must be specified when static sharding is enabled")
        if len(content_topic.encode("utf-8", "surrogatepass")) > MAX_CONTENT_TOPIC_BYTES:
            raise TopicError(f"content topic is longer than {MAX_CONTENT_TOPIC_BYTES} bytes")
        return autoshard(content_topic, self.info.shard_count)

    def shard_of_checked(self, content_topic: str) -> int:
        """As `shard_of`, but raises IpcError (bad_request)."""
        try:
            return self.shard_of(content_topic)
        except TopicError as error:
            raise IpcError(ErrorCode.BAD_REQUEST, str(error)) from error

    def to_note(self) -> bytes:
        return json.dumps(self.info.to_body()).encode()

    @classmethod
    def from_note(cls, note: bytes) -> Network | None:
        """None for a note that another version wrote and this one cannot read."""
        try:
            body = json.loads(note)
            return cls(NetworkInfo.from_body(body)) if isinstance(body, dict) else None
        except (ValueError, IpcError):
            return None
