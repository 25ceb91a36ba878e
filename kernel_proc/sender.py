"""Send messages through the relay: our own (`relay.publish`) and those of light clients (lightpush)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, NamedTuple

import trio

from ipc_schema.message import WakuMessage
from kernel_proc.relay.messages import PublishResult
from kernel_proc.relay.service import RelayService
from kernel_proc.shards import Shards

UNSENT_KEPT: Final = 4096
UNSENT_SECONDS: Final = 300.0


class RelayOutcome(NamedTuple):
    """The outcome of sending. `peers` is the number of recipients this time."""

    peers: int
    duplicate: bool
    """The same bytes were sent or received before."""
    no_recipients: bool
    """No peer has it from us, and it was not suppressed as a duplicate either."""


class MessageSender:
    """Pass encoded messages to the relay, and new ones to the shard's stream and sinks.

    A message without recipients is remembered: it is in the relay's seen cache, so that a plain retry would
    count as a duplicate and never be sent.
    """

    def __init__(
        self,
        relay: RelayService,
        shards: Shards,
        *,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self._relay = relay
        self._shards = shards
        self._clock = clock
        self._unsent: OrderedDict[bytes, float] = OrderedDict()

    def send(
        self,
        topic: str,
        message: WakuMessage,
        data: bytes,
        digest: bytes,
        source: int,
        *,
        force: bool = False,
    ) -> RelayOutcome | Awaitable[RelayOutcome]:
        """Send `message`, encoded as `data`, with the message hash `digest`. Return an awaitable if the relay
        has to wait. Raise RelayMessageTooLarge, RelayMessageInvalid or RelayBadTopic."""
        again = force or digest in self._unsent
        result = self._relay.begin_publish(topic, data, message=message, force=again)
        if isinstance(result, PublishResult):
            return self._sent(topic, message, digest, source, again, result)
        return _sent_later(result, partial(self._sent, topic, message, digest, source, again))

    def _sent(
        self,
        topic: str,
        message: WakuMessage,
        digest: bytes,
        source: int,
        again: bool,
        result: PublishResult,
    ) -> RelayOutcome:
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


async def _sent_later(
    sending: Awaitable[PublishResult], outcome: Callable[[PublishResult], RelayOutcome]
) -> RelayOutcome:
    # Once the relay has accepted the message, a retry is a duplicate: even if the caller gives up, it must be
    # put on the stream now, or it never will be. The relay limits its own waiting.
    with trio.CancelScope(shield=True):
        result = await sending
    return outcome(result)
