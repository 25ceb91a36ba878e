"""Messages on their way to the relay: own ones (`relay.publish`) and those of light clients (lightpush)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

import trio

from ipc_schema.message import WakuMessage
from kernel_proc.relay.messages import PublishResult
from kernel_proc.shards import Shards

__all__ = ["MessageSender", "PublishingRelay", "RelayOutcome"]

UNSENT_KEPT: Final = 4096
UNSENT_SECONDS: Final = 300.0


class PublishingRelay(Protocol):
    """What sending needs of the relay."""

    async def publish(self, topic: str, data: bytes, *, force: bool = False) -> PublishResult:
        """Send an encoded message; see RelayService."""
        ...


class RelayOutcome(NamedTuple):
    """What became of a message. `peers`: to how many it went now."""

    peers: int
    duplicate: bool
    """The same bytes were seen before, ours or received."""
    no_recipients: bool
    """No peer has it from us, and it was not held back as a repeat either."""


class MessageSender:
    """Gives encoded messages to the relay, and new ones to the shard's stream and sinks.

    A message that no peer took is remembered: the relay has it among the seen, so that a plain repeat would
    count as a duplicate and never be sent.
    """

    def __init__(
        self,
        relay: PublishingRelay,
        shards: Shards,
        *,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self._relay = relay
        self._shards = shards
        self._clock = clock
        self._unsent: OrderedDict[bytes, float] = OrderedDict()

    async def send(
        self,
        topic: str,
        message: WakuMessage,
        data: bytes,
        digest: bytes,
        source: int,
        *,
        force: bool = False,
    ) -> RelayOutcome:
        """Send `message`, encoded as `data`, with the message hash `digest`. Raises RelayMessageTooLarge,
        RelayMessageInvalid, RelayBadTopic."""
        again = force or digest in self._unsent
        # Once the relay has taken the message, a repeat is a duplicate: whatever the caller's patience, it
        # must get onto the stream now or it never would. The relay bounds its own waiting.
        with trio.CancelScope(shield=True):
            result = await self._relay.publish(topic, data, force=again)
            if not result.duplicate:
                self._shards.deliver(topic, message, digest, source)
        if result.peers:
            self._unsent.pop(digest, None)
            return RelayOutcome(result.peers, result.duplicate, no_recipients=False)
        if result.duplicate and not again:
            return RelayOutcome(0, duplicate=True, no_recipients=False)
        self._remember(digest)
        return RelayOutcome(0, result.duplicate, no_recipients=True)

    def _remember(self, digest: bytes) -> None:
        self._unsent[digest] = self._clock()
        self._unsent.move_to_end(digest)
        oldest = self._clock() - UNSENT_SECONDS
        while self._unsent and (
            len(self._unsent) > UNSENT_KEPT or next(iter(self._unsent.values())) < oldest
        ):
            self._unsent.popitem(last=False)
