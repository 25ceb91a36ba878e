"""The network that the node is on, as reported in the kernel's hello; stored for starts without a kernel."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ipc_schema.config.options import ConfigError
from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.hello import NetworkInfo
from ipc_schema.sizes import largest_payload
from ipc_schema.topics import TopicError, autoshard, shard_topic

MAX_CONTENT_TOPIC_BYTES: Final = 256
"""Longest content topic an app may use, in UTF-8 bytes. The payload limit in hello allows for it."""

NETWORK_NOTE: Final = "network"
"""The database's note that holds the last network."""


class AppNetwork:
    """A network and what follows from it."""

    def __init__(self, info: NetworkInfo) -> None:
        self.info = info
        # A shard's number takes one to four characters of the topic; the longest one decides.
        longest = shard_topic(info.cluster, max(info.shard_count - 1, 0))
        self.max_payload = largest_payload(info.max_message_size, longest, MAX_CONTENT_TOPIC_BYTES)

    def shard_of(self, content_topic: str) -> int:
        """Return the shard of a content topic (autosharding, 51/WAKU2-RELAY-SHARDING).

        Raises TopicError with the text for the app.
        """
        if self.info.shard_count == 0:
            raise TopicError("Pubsub topic must be specified when static sharding is enabled")
        if len(content_topic.encode("utf-8", "surrogatepass")) > MAX_CONTENT_TOPIC_BYTES:
            raise TopicError(f"content topic is longer than {MAX_CONTENT_TOPIC_BYTES} bytes")
        return autoshard(content_topic, self.info.shard_count)

    def shard_of_checked(self, content_topic: str) -> int:
        """Like `shard_of`, but raises IpcError (bad_request)."""
        try:
            return self.shard_of(content_topic)
        except TopicError as error:
            raise IpcError(ErrorCode.BAD_REQUEST, str(error)) from error

    def to_note(self) -> bytes:
        return json.dumps(self.info.to_body()).encode()

    @classmethod
    def from_note(cls, note: bytes) -> AppNetwork | None:
        """Restore a network; None for a note of another version that this one cannot read."""
        try:
            body = json.loads(note)
            return cls(NetworkInfo.from_body(body)) if isinstance(body, dict) else None
        except (ValueError, IpcError):
            return None


class CurrentNetwork:
    """The current network: None until a kernel, or the note of an earlier run, provides it."""

    def __init__(self) -> None:
        self.known: AppNetwork | None = None

    def __call__(self) -> AppNetwork:
        """Return the network. Raises IpcError: `not_ready` while it is unknown."""
        if self.known is None:
            raise IpcError(ErrorCode.NOT_READY, "the kernel has not been reached yet", retry_after_ms=200)
        return self.known

    @property
    def cluster(self) -> int:
        """Return the cluster id. Raises IpcError like `__call__`."""
        return self().info.cluster

    def shard_of(self, content_topic: str) -> int:
        """Raises IpcError, TopicError."""
        return self().shard_of(content_topic)


@dataclass(eq=False)
class NetworkKeeper:
    """Checks each kernel's network against the configuration, and adopts it."""

    current: CurrentNetwork
    check: Callable[[NetworkInfo], None]
    """Raise ConfigError for a network that contradicts the configuration."""
    adopt: Sequence[Callable[[AppNetwork], None]]
    """Start work on a network that is the first one or differs from the previous."""
    keep: Callable[[str, bytes], None]
    """Store a note (key, value) on disk."""

    def load(self, notes: Mapping[str, bytes]) -> None:
        """Start on the last run's network, if there was one and the configuration still allows it."""
        note = notes.get(NETWORK_NOTE)
        network = AppNetwork.from_note(note) if note is not None else None
        if network is None:
            return
        try:
            self.check(network.info)
        except ConfigError:
            return
        self._begin(network)

    def meet(self, info: NetworkInfo) -> None:
        """Take a kernel's network. Raises IpcError if it contradicts the configuration."""
        try:
            self.check(info)
        except ConfigError as refusal:
            raise IpcError(ErrorCode.BAD_REQUEST, str(refusal)) from refusal
        if self.current.known is None or self.current.known.info != info:
            network = AppNetwork(info)
            self._begin(network)
            self.keep(NETWORK_NOTE, network.to_note())

    def _begin(self, network: AppNetwork) -> None:
        self.current.known = network
        for adopt in self.adopt:
            adopt(network)
