"""`relay.publish`: from a request's fields to the network and to the shard's own stream."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.hello import NetworkInfo
from ipc_schema.kernel.events import SOURCE_SELF
from ipc_schema.message import MessageEncodeError, WakuMessage, encode_message, message_hash
from ipc_schema.sizes import too_large_text
from ipc_schema.topics import TopicError, place
from kernel_proc.metrics import Registry
from kernel_proc.relay.messages import RelayError, RelayMessageTooLarge
from kernel_proc.relay.rpc_writer import fits_rpc
from kernel_proc.sender import MessageSender, RelayOutcome
from kernel_proc.shards import Shards


class PublishOutcome(NamedTuple):
    """The outcome of a publish that at least one peer accepted, or of a duplicate."""

    message_hash: bytes
    timestamp: int
    pubsub_topic: str
    peers: int
    duplicate: bool


class Ready(NamedTuple):
    """An encoded message that is ready to send."""

    message: WakuMessage
    data: bytes
    message_hash: bytes
    pubsub_topic: str
    shard: int


class Publishing:
    """Publish messages of this node's consumers.

    The network's `max_message_size` limits the encoded message together with its relay RPC; with
    `rln_required`, messages without a proof are rejected, because every peer would penalise us for them.
    `sender` is None if relay is off.
    """

    def __init__(
        self,
        sender: MessageSender | None,
        shards: Shards,
        network: NetworkInfo,
        registry: Registry,
        *,
        clock_ns: Callable[[], int] = time.time_ns,
        no_peers: Callable[[int], str] = "no peer on shard {}".format,
    ) -> None:
        """`no_peers(shard)` explains why there is no peer on the shard."""
        self._no_peers_text = no_peers
        self._sender = sender
        self._shards = shards
        self._network = network
        self._max_size = network.max_message_size
        self._clock_ns = clock_ns
        self._sent = registry.counter("node_messages", type="self")

    def publish(
        self,
        message: WakuMessage,
        *,
        pubsub_topic: str | None = None,
        shard: int | None = None,
        force: bool = False,
    ) -> PublishOutcome | Awaitable[PublishOutcome]:
        """Publish on the given shard, or on the content topic's shard under autosharding. Return an awaitable
        if the relay has to wait.

        A message without a timestamp (0) gets the current time. Raise `IpcError`: `bad_request`, `too_large`,
        `rln_required`, or `no_peers` with the message hash and timestamp as detail; in the last case the
        message is on the shard's stream all the same.
        """
        ready = self.prepare(message, pubsub_topic=pubsub_topic, shard=shard)
        sender = self._sender
        if sender is None:
            raise IpcError(ErrorCode.NOT_READY, "relay is off on this node", retriable=False)
        topic, message, digest = ready.pubsub_topic, ready.message, ready.message_hash
        try:
            sent = sender.send(topic, message, ready.data, digest, SOURCE_SELF, force=force)
        except RelayError as error:
            raise self._refusal(error) from error
        return self._outcome(ready, sent) if isinstance(sent, RelayOutcome) else self._later(ready, sent)

    async def _later(self, ready: Ready, sending: Awaitable[RelayOutcome]) -> PublishOutcome:
        try:
            sent = await sending
        except RelayError as error:
            raise self._refusal(error) from error
        return self._outcome(ready, sent)

    def _refusal(self, error: RelayError) -> IpcError:
        if isinstance(error, RelayMessageTooLarge):
            return self._too_large(error.limit)
        return IpcError(ErrorCode.BAD_REQUEST, str(error))

    def _outcome(self, ready: Ready, sent: RelayOutcome) -> PublishOutcome:
        if not sent.duplicate:
            self._sent.add()
        digest, timestamp, topic = ready.message_hash, ready.message.timestamp, ready.pubsub_topic
        done = PublishOutcome(digest, timestamp, topic, sent.peers, sent.duplicate)
        if sent.no_recipients:
            raise self._no_peers(done, ready.shard)
        return done

    def prepare(
        self, message: WakuMessage, *, pubsub_topic: str | None = None, shard: int | None = None
    ) -> Ready:
        """Place, stamp, check and encode a message for any publishing path. Raise `IpcError`:
        `bad_request`, `too_large` or `rln_required`."""
        number, topic = self._place(message.content_topic, pubsub_topic, shard)
        if not message.payload:
            raise IpcError(ErrorCode.BAD_REQUEST, "payload is empty")
        if self._network.rln_required and not message.proof:
            raise IpcError(ErrorCode.RLN_REQUIRED, "this network takes only messages with an RLN proof")
        if not message.timestamp:
            message = message._replace(timestamp=self._clock_ns())
        try:
            data = encode_message(message)
        except MessageEncodeError as error:
            raise IpcError(ErrorCode.BAD_REQUEST, str(error)) from error
        # The service node's relay sends it in one RPC, to which the limit applies.
        if not fits_rpc(topic.encode(), len(data), self._max_size):
            raise self._too_large(self._max_size)
        return Ready(message, data, message_hash(topic, message), topic, number)

    def _no_peers(self, done: PublishOutcome, shard: int) -> IpcError:
        return IpcError(
            ErrorCode.NO_PEERS,
            self._no_peers_text(shard),
            detail={
                "message_hash": done.message_hash,
                "timestamp": done.timestamp,
                "pubsub_topic": done.pubsub_topic,
                "duplicate": done.duplicate,
            },
        )

    def _place(self, content_topic: str, pubsub_topic: str | None, shard: int | None) -> tuple[int, str]:
        if not content_topic:
            raise IpcError(ErrorCode.BAD_REQUEST, "content topic is empty")
        if shard is not None and pubsub_topic is None:
            return shard, self._shards.check(shard)
        try:
            number = place(
                (content_topic,),
                cluster=self._network.cluster,
                shard_count=self._network.shard_count,
                pubsub_topic=pubsub_topic,
                shard=shard,
            )
        except TopicError as error:
            raise IpcError(ErrorCode.BAD_REQUEST, str(error)) from error
        return number, self._shards.check(number)

    @staticmethod
    def _too_large(limit: int) -> IpcError:
        return IpcError(ErrorCode.TOO_LARGE, too_large_text(limit))
